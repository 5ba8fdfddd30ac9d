"""Plain data into dataclasses: what the words in messages are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox import validation
from reprobox.validation import OPTIONAL, Rule, Rules, build, closest, describe, dotted, printable, to_plain


@dataclass(frozen=True, kw_only=True)
class Leaf:
    size: int
    word: str = "x"


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaves: tuple[Leaf, ...]
    one: Leaf | None = None


RULES: Rules = {
    Leaf: {"size": Rule(expected="a small number", maximum=9), "word": Rule(expected="a or b", choices=("a", "b"))}
}


def test_data_becomes_dataclasses_and_data_again() -> None:
    data = {"leaves": [{"size": 1, "word": "a"}], "one": {"size": 2, "word": "b"}}
    tree, problems = build(Tree, data, RULES)
    assert problems == []
    assert tree == Tree(leaves=(Leaf(size=1, word="a"),), one=Leaf(size=2, word="b"))
    assert to_plain(tree) == data


def test_rules_types_and_keys_are_all_checked_at_every_depth() -> None:
    data = {"leaves": [{"size": 10, "word": "aa"}, {"sise": 1}], "one": {"size": "2"}}
    tree, problems = build(Tree, data, RULES)
    assert tree is None
    assert {(dotted(problem.path), problem.kind, problem.suggestion) for problem in problems} == {
        ("leaves[0].size", "value", None),
        ("leaves[0].word", "value", "a"),
        ("leaves[1].sise", "unknown", "size"),
        ("leaves[1].size", "missing", None),
        ("one.size", "value", None),
    }


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_nothing_is_taken_for_a_whole_number_but_one(value: object) -> None:
    assert build(Leaf, {"size": value}, {})[0] is None


def test_values_are_described_as_their_writer_sees_them() -> None:
    assert [describe(value) for value in (None, True, 5, "no", "", [1], {"a": 1})] == [
        *("nothing", "true", "5", "no", "empty text", "a list", "keys and values")
    ]


def test_slips_are_recognised_and_strangers_are_not() -> None:
    assert closest("deterministc", ["seed", "deterministic"]) == "deterministic"
    assert closest("colour", ["seed", "deterministic"]) is None


@given(st.text(st.characters(), max_size=200))
def test_whatever_is_printed_is_printable_and_short(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text, limit=10)) <= 10 * 10 + 3


@dataclass(frozen=True, kw_only=True)
class Extended:
    old: int
    new: tuple[str, ...] = field(default=(), metadata=OPTIONAL)


def test_an_optional_field_is_written_only_when_it_says_something() -> None:
    assert to_plain(Extended(old=1)) == {"old": 1}
    assert to_plain(Extended(old=1, new=("a",))) == {"old": 1, "new": ["a"]}
    assert build(Extended, {"old": 1}, {}) == (Extended(old=1), [])


@dataclass(frozen=True, kw_only=True)
class Many:
    text: str = ""
    count: int = 0
    ratio: float = 0.0
    flag: bool | None = None
    words: tuple[str, ...] = ()
    inner: Extended | None = None
    table: dict[str, int] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"


_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(["a", "b"])
)
_INNER = st.fixed_dictionaries({"old": _SCALARS}, optional={"new": st.lists(_SCALARS)})
_ANY = _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), _SCALARS, max_size=3) | _INNER


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Many.__dataclass_fields__, _ANY)))
def test_what_is_plain_to_see_is_what_pydantic_makes_of_it(data: dict[str, object]) -> None:
    built, problems = build(Many, data, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "_fitted", unclear)
        assert build(Many, data, {}) == (built, problems)


def unclear(*_: object) -> None:
    raise validation._UnclearError

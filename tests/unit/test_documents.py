"""Strict YAML: what is read, what is refused and where, and that what is written is read again by anybody."""

from __future__ import annotations

import base64
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from reprobox.documents import MAX_DEPTH, MAX_INTEGER, MAX_KEY, MAX_NODES, Document, read_document, write_document
from reprobox.errors import ManifestError, SpecError
from tests.unit.counting import calls

LIMIT = 64_000_000


@pytest.fixture(params=["libyaml", "pure"])
def _each_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read with libyaml, and as where PyYAML was built without it."""
    if request.param == "libyaml" and not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml here")
    monkeypatch.setattr(yaml, "__with_libyaml__", request.param == "libyaml")


@pytest.fixture
def _libyaml() -> None:
    if not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml here")


def read(text: str | bytes) -> Document:
    content = text.encode() if isinstance(text, str) else text
    return read_document(content, what="manifest", max_bytes=LIMIT, error=ManifestError)


def refused(text: str | bytes) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("18437736874454810622", 18437736874454810622),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("text", "text"),
        ('"5"', "5"),
        ("'null'", "null"),
        *((bent, bent) for bent in ("no", "on", "y", "3.10", "3.0", "1e-5", "0x1f", "0o17", "042", "+5", "1_000")),
        *((bent, bent) for bent in ("nan", ".nan", ".inf", "-0", "2026-11-21", "2026-11-21T22:31:30Z", "22:31:30")),
        ("9" * 21, "9" * 21),
    ],
)
def test_a_plain_scalar_means_what_was_typed(text: str, value: object) -> None:
    assert read(f"key: {text}\n").data == {"key": value}
    assert type(read(f"key: {text}\n").data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key a stands here for the second time; the first is on line 1"),
        ("a:\n  b: {c: 1, c: 2}\n", 2, "key c"),
        ("a: &x 1\n", 1, "anchor &x"),
        ("a: 1\nb: *x\n", 2, "alias *x"),
        ("a: !!str 1\n", 1, "tag tag:yaml.org,2002:str"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: ! x\n", 1, "tag !"),
        ("a:\n  <<: {b: 1}\n", 2, "merge key"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: 1\n5: 2\n", 2, "key 5 is not text"),
        ("a: 1\n? [x]\n: 2\n", 2, "list or mapping as a key"),
        ("a: 1\nb: c: d\n", 2, "not YAML"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not YAML"),
        ("a: 1\n\tb: 2\n", 2, "not YAML"),
        ("a: 1\nb: x\x07y\n", 2, "control character"),
        (b"a: 1\nb: \xff\xfe\n", 2, "not UTF-8"),
        ("a: 1\nb: [1, 2,\n", 2, "ends in the middle of an entry"),
        ('é: 1\nü: "ö\n', 2, "ends in the middle of an entry"),
        (b"a: 1\nb: \xc3", 2, "truncated"),
    ],
)
@pytest.mark.usefixtures("_each_parser")
def test_what_is_unsafe_or_ambiguous_is_refused_by_line(text: str | bytes, line: int, words: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"manifest:{line}: ")
    assert words in error.message


DEEP = MAX_DEPTH + 1


# Some are found by the builder, some by libyaml itself, which has a limit of its own from 0.2.6 on.
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: " + "[" * DEEP, 2),
        ("a: 1\nb: " + "[" * DEEP + "]" * DEEP, 2),
        ("a: 1\nb: " + "[" * 999 + "]" * 999, 2),
        ("b: " + "[" * 1_000_000, 1),
        ("\n\n" + "[a, " * 1_000_000, 3),
        ("a:\n  " + "[" * 2000 + "\n" + "[" * 2000, 2),
        ("a: [\n" + "[" * 2000, 2),
        ("a: " + "{b: " * 2000, 1),
        ("a: " + "[\n" * 2000, DEEP - 1),
        ("a: 1\nb:\n  " + "- " * 2000 + "x", 3),
        ("".join(" " * level + "a:\n" for level in range(2000)), DEEP),
    ],
)
@pytest.mark.usefixtures("_each_parser")
def test_deep_nesting_is_refused_in_the_same_words_whichever_layer_notices_it(text: str, line: int) -> None:
    assert refused(text).message == f"manifest:{line}: nesting deeper than {MAX_DEPTH} levels is refused"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_is_said_to_be_empty_or_without_keys(text: str) -> None:
    assert "empty" in refused(text).message or "holds no keys" in refused(text).message


@pytest.mark.parametrize("text", ["- a\n", "text\n", "5\n"])
def test_the_top_level_is_a_mapping(text: str) -> None:
    assert "holds no keys" in refused(text).message


def test_a_quoted_merge_key_is_an_ordinary_key() -> None:
    assert read('"<<": 1\n').data == {"<<": 1}


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


@pytest.mark.usefixtures("_each_parser")
def test_nesting_up_to_the_limit_is_read() -> None:
    text = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert read(text).data["a"] is not None


def test_a_document_of_very_many_entries_is_refused() -> None:
    assert str(MAX_NODES) in refused("a: [" + "1," * (MAX_NODES + 1) + "]").message


def test_the_file_is_named_and_its_size_is_looked_at_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as handle:
        handle.truncate(100_000_000)
    monkeypatch.setattr(Path, "open", None)
    with pytest.raises(SpecError, match=r"large\.yaml is too large for a spec: 100\.0 MB"):
        read_document(path, what="spec", max_bytes=1_000_000, error=SpecError)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no spec"):
        read_document(tmp_path / "none.yaml", what="spec", max_bytes=10, error=SpecError)
    with pytest.raises(SpecError, match="is a folder"):
        read_document(tmp_path, what="spec", max_bytes=10, error=SpecError)


def test_every_entry_knows_its_line_and_a_missing_one_that_of_what_is_around_it() -> None:
    document = read("# comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n")
    assert document.line_of(("a",)) == 2
    assert document.line_of(("a", "b")) == 3
    assert document.line_of(("a", "c", 1, "d")) == 6
    assert document.line_of(("a", "missing", "deeper")) == 2
    assert document.line_of(("missing",)) is None
    assert document.place(("a", "b")) == "manifest:3"


@pytest.mark.parametrize(
    "text",
    [
        *("", " x", "x ", "no", "Yes", "OFF", "null", "~", "y", "1", "1.5", "3.10", "1e-5", "0x1f", "1_000", "0b1"),
        *(".5", "nan", "NaN", "inf", "-inf", "-.inf", "Infinity", "2026-11-21", "12:30:45", "a: b", "a #b", "# b"),
        *("- a", "<<", "=", "*a", "&a", "!a", "%a", "@a", "`a`", "[a]", "{a}", "a,b", "a:", ":a", "?", "-", "--"),
        *("---", "...", "a\nb", "\t", "deadbeef", "12345678", "0" * 64, "\x7f", "\x85", "\u2028", "\ufeff"),
        *("a\u00a0b", "\U0001f600", "\U0001fffe"),
    ],
)
def test_text_that_a_yaml_parser_could_bend_is_quoted(text: str) -> None:
    written = write_document({"key": text, "list": [text], "row": [{"k": text}]}).decode()
    assert written.startswith('key: "')
    expected = {"key": text, "list": [text], "row": [{"k": text}]}
    assert read(written).data == expected
    assert yaml.safe_load(written) == expected


@pytest.mark.parametrize("text", ["python", "train.py", "--epochs", "./run.sh", "AMD EPYC 9575F", "a-b_c", "x86_64"])
def test_harmless_text_stands_unquoted(text: str) -> None:
    assert write_document({"key": text}).decode() == f"key: {text}\n"


def test_short_lists_and_records_stand_on_one_line() -> None:
    data = {
        "command": ["python", "train.py", "--epochs", "2"],
        "packages": [{"name": "click", "version": "8.5.1"}],
        "nested": {"cpu": {"model": "EPYC", "isa": ["avx2"]}, "empty": [], "none": None},
        "long": ["x" * 40, "y" * 40, "z" * 40],
    }
    assert write_document(data).decode() == (
        'command: [python, train.py, --epochs, "2"]\n\n'
        'packages:\n  - {name: click, version: "8.5.1"}\n\n'
        "nested:\n  cpu: {model: EPYC, isa: [avx2]}\n  empty: []\n  none: null\n\n"
        f"long:\n  - {'x' * 40}\n  - {'y' * 40}\n  - {'z' * 40}\n"
    )


def test_long_base64_is_folded_and_reads_as_one_text() -> None:
    content = base64.b64encode(random.Random(0).randbytes(1000)).decode()
    written = write_document({"archive": content, "streams": [{"losses": content}]})
    assert max(map(len, written.splitlines())) <= 120
    assert read(written).data == yaml.safe_load(written) == {"archive": content, "streams": [{"losses": content}]}


@pytest.mark.parametrize("value", [1.5, float("nan"), b"x", {1}, object()])
def test_what_a_document_cannot_hold_is_not_written(value: object) -> None:
    with pytest.raises(TypeError):
        write_document({"key": value})


def test_keys_integers_and_depth_are_kept_within_what_is_read() -> None:
    deep: Any = []
    for _ in range(MAX_DEPTH):
        deep = [deep, {}]
    for data in ({"k" * (MAX_KEY + 1): 1}, {"a": MAX_INTEGER + 1}, {"a": deep}, {"a": "\ud800"}):
        with pytest.raises(ValueError):
            write_document(data)
    with pytest.raises(TypeError):
        write_document({5: 1})  # type: ignore[dict-item]


@pytest.mark.usefixtures("_libyaml")
def test_long_base64_is_left_to_libyaml_and_costs_no_python_a_line() -> None:
    work = []
    for size in (3_750, 3_750, 3_750_000):
        content = base64.b64encode(random.Random(0).randbytes(size)).decode()
        written = write_document({"archive": content, "more": {"losses": content[:1000]}})
        document, called = calls(partial(read, written))
        assert document.data["archive"] == content
        work.append(called)
    assert len(written) > 5_000_000
    # The first reading may import something; the garbage collector may call something in any.
    assert work[2] < 1.1 * work[1] < 1000


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
# Text made of the characters that mean something in YAML finds more than text at random.
tricky = st.text(alphabet="aeE01.-+:_# \n\"'\\[]{},&*!|>%@`?~=<\t\u00e9\u2028", max_size=12)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | tricky
trees = st.recursive(
    scalars | tricky,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(keys, trees, max_size=6))
@example({"a": [[[], {}], [{"b": [[1]]}]]})
@example({"a": [{"\x1f" * 25: {}, "\x1e" * 25: []}]})
@example({"a": [{"b": ["x"], "c": {"d": {}}}]})
@example({"k": "A" * 500, "l": ["B" * 500], "r": [{"x": "C" * 500}], "d": {"y": {"z": "D" * 500}}})
def test_what_is_written_is_read_again_by_reprobox_and_by_pyyaml(data: dict[str, Any]) -> None:
    written = write_document(data)
    assert read(written).data == data
    assert yaml.safe_load(written) == data
    assert write_document(data) == written


@given(st.binary(max_size=200) | tricky.map(str.encode))
def test_any_bytes_are_read_or_refused_with_our_own_error(content: bytes) -> None:
    try:
        assert isinstance(read(content).data, dict)
    except ManifestError as error:
        assert error.message.startswith("manifest")

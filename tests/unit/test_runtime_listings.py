"""Which directory listings alarm: those whose order is kept, and no others."""

from __future__ import annotations

import itertools
import linecache
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from reprobox.runtime import listings

_numbers = itertools.count()


class Lister:
    """Stands for `os`: lists three files and asks at that moment whether the order matters to the caller."""

    def __init__(self) -> None:
        self.verdicts: list[bool] = []

    def listdir(self, _folder: str = ".") -> list[str]:
        self.verdicts.append(listings.order_matters(sys._getframe(1)))
        return ["b", "c", "a"]

    def walk(self, _folder: str = ".") -> Any:
        yield "d", ["x"], self._listed()

    def _listed(self) -> list[str]:
        # As in the audit, the frames of the standard library in between are skipped.
        self.verdicts.append(listings.order_matters(sys._getframe(2)))
        return ["b", "a"]


def verdict(tmp_path: Path, source: str) -> bool:
    path = tmp_path / f"script{next(_numbers)}.py"
    path.write_text(textwrap.dedent(source))
    linecache.checkcache(str(path))
    lister = Lister()
    names = {"os": lister, "__name__": "__main__", "train": lambda *_: None, "load": lambda name: name}
    exec(compile(path.read_text(), str(path), "exec"), names)
    assert len(lister.verdicts) == 1
    return lister.verdicts[0]


HARMLESS = {
    "sorted at once": "files = sorted(os.listdir('data'))",
    "sorted with a key, over lines": "files = sorted(\n    os.listdir('data'),\n    key=len,\n)\ntrain(files)",
    "sorted from a generator": "files = sorted(f for f in os.listdir('data') if f > 'a')",
    "sorted from a comprehension": "files = sorted([f.upper() for f in os.listdir('data')])",
    "sorted later": "files = os.listdir('data')\nfiles.sort()\ntrain(files)",
    "sorted under another name": "x = os.listdir('d')\npaths = [f for f in x]\nordered = sorted(paths)\ntrain(ordered)",
    "collected in a loop, then sorted": "out = []\nfor f in os.listdir('data'):\n    out.append(f)\ntrain(sorted(out))",
    "sorted by the caller": "def files():\n    return os.listdir('data')\ntrain(sorted(files()))",
    "kept, then sorted by the caller": "def f():\n    x = os.listdir('d')\n    return x\ny = sorted(f())\ntrain(y)",
    "yielded, sorted by the caller": "def f():\n    for x in os.listdir('d'):\n        yield x\ntrain(sorted(f()))",
    "sorted in another method": """
        class Data:
            def __init__(self):
                self.files = os.listdir('data')
                self.order()
            def order(self):
                self.files.sort()
        train(Data())
        """,
    "walked with sorted files": "for root, _, files in os.walk('d'):\n    for f in sorted(files):\n        train(f)",
    "counted": "train(len(os.listdir('data')))",
    "counted from a variable": "files = os.listdir('data')\nprint(len(files))",
    "searched": "found = 'a' in os.listdir('data')",
    "looked at for being empty": "if not os.listdir('data'):\n    raise SystemExit",
    "made a set": "names = {f for f in os.listdir('data')}",
    "printed": "print(os.listdir('data'))",
    "dropped": "os.listdir('data')",
    "tidied up": "for f in os.listdir('data'):\n    if f.endswith('.tmp'):\n        print('removing', f)",
}
ALARMS = {
    "trained on": "files = os.listdir('data')\ntrain(files)",
    "handed over at once": "train(os.listdir('data'))",
    "trained on one by one": "for f in os.listdir('data'):\n    train(load(f))",
    "counted, and trained on": "files = os.listdir('data')\nprint(len(files))\ntrain(files)",
    "numbered": "classes = {name: i for i, name in enumerate(os.listdir('data'))}\ntrain(classes)",
    "returned to one who trains": "def files():\n    return [f for f in os.listdir('data')]\ntrain(files())",
    "collected in a loop": "out = []\nfor f in os.listdir('data'):\n    out.append(f)\ntrain(out)",
    "extended by": "out = []\nout.extend(os.listdir('data'))\ntrain(out)",
    "walked": "for root, dirs, files in os.walk('data'):\n    for f in files:\n        train(f)",
    "the first one taken": "first = os.listdir('data')[0]\ntrain(first)",
    "kept in an object": "class D:\n    def __init__(self):\n        self.files = os.listdir('d')\ntrain(D().files)",
    "beside something sorted": "a, b = sorted([2, 1]), os.listdir('data')\ntrain(a, b)",
}


@pytest.mark.parametrize("source", HARMLESS.values(), ids=HARMLESS)
def test_a_listing_is_no_alarm_when_its_order_cannot_matter(source: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, source) is False


@pytest.mark.parametrize("source", ALARMS.values(), ids=ALARMS)
def test_a_listing_alarms_when_its_order_is_kept(source: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, source) is True


@pytest.mark.parametrize("source", [HARMLESS["sorted with a key, over lines"], HARMLESS["tidied up"]])
def test_older_pythons_that_know_only_the_line_are_content_too(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings, "_span", lambda frame: (frame.f_lineno, None, None, None))
    assert verdict(tmp_path, source) is False
    assert verdict(tmp_path, ALARMS["trained on"]) is True

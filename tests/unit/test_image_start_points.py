"""Where the start files of an image go, from what is known of its base or what the image itself answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reprobox.image.bases import Base
from reprobox.image.probe import probe
from reprobox.image.start_points import start_points
from tests.unit.image_support import PYTHON_ANSWER, FakeStore, make_base

IMAGE = "sha256:" + "a" * 64
PTH = "/opt/env/lib/python3.11/site-packages/reprobox.pth"


def asked(cache: Path, **answer: object) -> tuple[FakeStore, Base]:
    store = FakeStore()
    store.answers[IMAGE] = json.dumps(PYTHON_ANSWER | answer)
    return store, make_base(cache)


def test_debians_python_is_where_its_package_puts_it(tmp_path: Path) -> None:
    store, base = asked(tmp_path)
    assert start_points(base, IMAGE, store, cache=tmp_path) == ("/usr/lib/python311.zip", PTH)
    assert store.questions == 0


def test_another_base_has_said_where_its_python_looks(tmp_path: Path) -> None:
    store, base = asked(tmp_path)
    base = replace(base, probe=probe(IMAGE, "base", store, cache=tmp_path))
    assert start_points(base, IMAGE, store, cache=tmp_path) == ("/usr/local/lib/python311.zip", PTH)
    assert start_points(replace(base, installed=True), IMAGE, store, cache=tmp_path) == (
        "/usr/local/lib/python311.zip",
    )


@pytest.mark.parametrize("archive", ["", "/usr/lib/python311.zip\n%post", "relative.zip"])
def test_where_the_archive_is_there_or_named_like_no_path_the_environment_alone_is_left(
    tmp_path: Path, archive: str
) -> None:
    store, base = asked(tmp_path, archive=archive)
    base = replace(base, probe=probe(IMAGE, "base", store, cache=tmp_path))
    assert start_points(base, IMAGE, store, cache=tmp_path) == (PTH,)


def test_an_image_that_came_as_a_whole_is_asked_once(tmp_path: Path) -> None:
    store, base = asked(tmp_path)
    unknown = replace(base, python="", python_executable="")
    for _ in range(2):
        assert start_points(unknown, IMAGE, store, cache=tmp_path) == ("/usr/local/lib/python311.zip", PTH)
    assert store.questions == 1

"""What the words of an engine that could not start a program are taken for."""

from __future__ import annotations

import pytest

from reprobox.engines.docker_run import _lacks_init


@pytest.mark.parametrize(
    ("words", "info", "lacks"),
    [
        ('exec: "docker-init": executable file not found in $PATH', {"InitBinary": "docker-init"}, True),
        ("error mounting to rootfs at /sbin/docker-init: stat /not/there: no such file", {}, True),
        # Docker 28 with runc 1.3 names what it could not mount, and not where.
        ("failed to fulfil mount request: open /not/there: no such file", {"InitBinary": "/not/there"}, True),
        ("failed to fulfil mount request: open /data: no such file", {"InitBinary": "/not/there"}, False),
        ("failed to fulfil mount request: open /data: no such file", {}, False),
    ],
)
def test_a_missing_init_program_is_told_from_other_refusals(words: str, info: dict[str, str], lacks: bool) -> None:
    assert _lacks_init(words, info) is lacks

"""`reprobox --help` starts fast because nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "numpy",
    "docker",
    "pydantic",
    "yaml",
    "requests",
    "packaging",
    "reprobox.workflow",
    "reprobox.engines",
]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in ("run", "replay", "pack", "push", "cache", "lock", "export")),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['reprobox', *{arguments!r}]\n"
        "from reprobox.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout

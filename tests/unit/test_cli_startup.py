"""`reprobox --help` starts fast because nothing heavy is imported."""

from __future__ import annotations

import json
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


def test_the_package_is_a_command_too() -> None:
    done = subprocess.run([sys.executable, "-m", "reprobox", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("reprobox, version ")


def test_a_command_line_that_cannot_be_understood_is_told_to_a_program_too() -> None:
    command = [sys.executable, "-m", "reprobox", "run", "--json", "--loader-seeding", "foo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (2, 2)
    assert "foo" in told["error"]

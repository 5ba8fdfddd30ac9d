"""Every field of the spec has a flag, and a flag reaches its field."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import click
import pytest

from reprobox.cli.main import cli
from reprobox.cli.options import _SPEC_FLAGS, overrides, spec_options
from reprobox.errors import ConsentError, EngineUnavailableError
from reprobox.spec import RunSpec, load_spec


def fields(model: type, prefix: str = "") -> set[str]:
    found: set[str] = set()
    hints = typing.get_type_hints(model)
    for field in dataclasses.fields(model):
        kind = hints[field.name]
        inner = dataclasses.is_dataclass(kind)
        found |= fields(kind, f"{prefix}{field.name}.") if inner else {prefix + field.name}
    return found


def test_every_field_can_be_overridden_by_a_flag() -> None:
    # The command is the only one without: it stands behind `--` on the command line.
    assert {field for _, field, _ in _SPEC_FLAGS} == fields(RunSpec) - {"command"}


def test_a_flag_reaches_its_field(tmp_path: Path) -> None:
    given: dict[str, object] = {}

    @click.command()
    @spec_options
    def command(spec_file: Path | None, **flags: object) -> None:
        given.update(overrides(flags))

    arguments = "--seed 7 --fast --cpus 3 --gpus 0,1 --data a --data b --network --digest-every 5 --base debian"
    command.main(arguments.split(), standalone_mode=False)
    spec = load_spec(tmp_path, file=None, overrides=given | {"command": ["python", "x.py"]})
    assert (spec.seed, spec.deterministic, spec.network, spec.data) == (7, False, True, ("a", "b"))
    assert (spec.resources.cpus, spec.resources.gpus, spec.image.base) == (3, "0,1", "debian")
    assert spec.trajectory.digest_every == 5


@pytest.mark.parametrize("command", ["run", "replay"])
def test_a_program_is_kept_running_where_that_is_asked_for(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def choose(wanted: str | None, *, keep_running: bool) -> None:
        asked.append(keep_running)
        raise EngineUnavailableError("no engine in this test")

    monkeypatch.setattr("reprobox.workflow.run.choose_engine", choose)
    manifest = str(Path(__file__).parents[1] / "assets" / "manifest-1.yaml")
    arguments = [manifest] if command == "replay" else ["-C", str(tmp_path), "--", "python", "train.py"]
    for options in ([], ["--keep-running"]):
        with pytest.raises((EngineUnavailableError, ConsentError)):
            cli.main([command, *options, *arguments], standalone_mode=False)
    assert asked == [False, True]

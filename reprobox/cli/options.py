"""Options that several commands share, and how flags become overrides of the spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reprobox.runtime.protocol import SEED_BATCHES, SEED_WORKERS

Function = TypeVar("Function", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
engine_names = click.Choice(["docker", "local"])
engine_option = click.option(
    "--engine", type=engine_names, help="Where to train. Default: docker, or local where no Docker engine answers."
)
keep_running_option = click.option(
    "--keep-running",
    is_flag=True,
    help="Let the program go on to its end if reprobox is killed. Default: it is ended a minute later.",
)
insecure_option = click.option(
    "--insecure", is_flag=True, help="Speak to the registry without encryption. Localhost needs no such leave."
)
project_option = click.option(
    "-C",
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The project's folder. Default: the current one.",
)

# Flag, field of the spec, and the keyword arguments of click.option. Every field of reprobox.yaml is here.
_SPEC_FLAGS: list[tuple[str, str, dict[str, Any]]] = [
    ("--name", "name", {"help": "Name of the run."}),
    ("--seed", "seed", {"type": int, "help": "Seed of every random source, 0 to 2^32-1. Default: 42."}),
    ("--deterministic/--fast", "deterministic", {"default": None, "help": "Deterministic algorithms, or the fastest."}),
    (
        "--loader-seeding",
        "loader_seeding",
        {
            "type": click.Choice([SEED_WORKERS, SEED_BATCHES]),
            "help": "Seed data loaders by worker, or each batch by its indices. Default: worker.",
        },
    ),
    ("--python", "environment.python", {"help": "Python version, such as 3.11. Default: the base's."}),
    ("--requirements", "environment.requirements", {"help": "requirements.txt, pyproject.toml, or a lock."}),
    ("--group", "environment.groups", {"multiple": True, "help": "Dependency group of pyproject.toml (repeatable)."}),
    ("--extra", "environment.extras", {"multiple": True, "help": "Extra of pyproject.toml (repeatable)."}),
    ("--exclude-newer", "environment.exclude_newer", {"help": "Day after which no release exists: 2026-05-31."}),
    ("--torch-backend", "environment.torch_backend", {"help": "Build of PyTorch: cpu, auto, or a CUDA such as cu128."}),
    (
        "--installed/--locked",
        "environment.installed",
        {"default": None, "help": "Take the packages that are in the base, or install locked ones. Default: locked."},
    ),
    ("--base", "image.base", {"help": "auto, debian, local:IMAGE, or a registry reference."}),
    ("--apt", "image.apt", {"multiple": True, "help": "Debian package to add to a debian base (repeatable)."}),
    ("--snapshot", "image.snapshot", {"help": "Debian's archive as it was, such as 2026-11-01T00:00:00Z."}),
    (
        "--bytecode/--no-bytecode",
        "image.bytecode",
        {"default": None, "help": "Compile the packages' modules into the image, or not. Default: not."},
    ),
    ("--gpus", "resources.gpus", {"help": "none, all, or indices such as 0,1."}),
    ("--cpus", "resources.cpus", {"type": int, "help": "Number of threads. Default: this machine's."}),
    ("--memory", "resources.memory", {"help": "Memory limit, such as 8g."}),
    ("--shm", "resources.shm", {"help": "Shared memory, such as 1g."}),
    ("--digest-every", "trajectory.digest_every", {"type": int, "help": "Steps between digests. Default: 25."}),
    ("--pythonpath", "pythonpath", {"multiple": True, "help": "Folder with modules of the program (repeatable)."}),
    ("--data", "data", {"multiple": True, "help": "File or folder of data (repeatable)."}),
    ("--env", "env", {"multiple": True, "help": "Variable that the program may see (repeatable)."}),
    ("--network/--no-network", "network", {"default": None, "help": "Network for the program. Default: none."}),
    (
        "--judge-outputs/--no-judge-outputs",
        "outputs_judged",
        {"default": None, "help": "Whether a replay must write the outputs again to the byte. Default: not."},
    ),
    ("--output", "outputs", {"multiple": True, "help": "Path whose files are hashed as outputs (repeatable)."}),
    ("--metrics", "metrics", {"multiple": True, "help": "JSON, YAML or CSV file of results to judge (repeatable)."}),
    (
        "--unjudged-metric",
        "unjudged_metrics",
        {"multiple": True, "help": "Metric, or a pattern such as debug/*, that a replay need not repeat (repeatable)."},
    ),
]


def _parameter(field: str) -> str:
    return "spec_" + field.replace(".", "_")


def spec_options(function: Function) -> Function:
    """Give a command a flag for every field of the spec."""
    for flag, field, settings in reversed(_SPEC_FLAGS):
        function = click.option(flag, _parameter(field), **settings)(function)
    return click.option(
        "--file", "spec_file", type=click.Path(path_type=Path), help="The spec. Default: reprobox.yaml in the project."
    )(function)


def overrides(arguments: dict[str, Any]) -> dict[str, object]:
    """Return the fields that flags were given for, by their names in the spec (`resources.gpus`)."""
    found: dict[str, object] = {}
    for _flag, field, _settings in _SPEC_FLAGS:
        value = arguments[_parameter(field)]
        if value is not None and value != ():
            found[field] = list(value) if isinstance(value, tuple) else value
    return found

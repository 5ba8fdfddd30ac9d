"""RunSpec: what the user asked for, from `reprobox.yaml` and the flags that override it."""

from __future__ import annotations

import decimal
import posixpath
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reprobox.documents import Document, read_document, shown
from reprobox.errors import SpecError
from reprobox.runtime.metrics import MAX_NAME
from reprobox.runtime.protocol import DEFAULT_DIGEST_EVERY, SEED_BATCHES, SEED_WORKERS
from reprobox.runtime.seeding import MAX_SEED
from reprobox.validation import OPTIONAL, Problem, Rule, Rules, Where, build, closest, report, to_plain

SPEC_FILE = "reprobox.yaml"
MAX_SPEC_BYTES = 1_000_000
DEFAULT_SEED = 42
# What a file of metrics may be, by the ending of its name.
METRIC_FILES = ("json", "jsonl", "ndjson", "yaml", "yml", "csv", "tsv")


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """`python` is the minor version wanted (`3.11`; None takes the base's); `requirements` the file that names the
    packages: requirements.txt, pyproject.toml or another tool's lock, relative to the project. With `installed` nothing
    is locked: the base image holds the packages.

    `groups` and `extras` are those of a pyproject.toml that are wanted beside its dependencies. `exclude_newer` is the
    day or moment (UTC) after which whatever was published does not exist. `torch_backend` is the build of PyTorch: cpu,
    a CUDA such as cu128, or auto (what the driver of this machine runs); None leaves it to the indexes.
    """

    python: str | None = None
    requirements: str = "requirements.txt"
    installed: bool = False
    groups: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    extras: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    exclude_newer: str | None = field(default=None, metadata=OPTIONAL)
    torch_backend: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """`base` is `auto`, `debian`, `debian:SUITE`, `local:REFERENCE` or a registry reference (`python:3.11-slim`).

    `apt` names Debian packages to add to a debian base; `snapshot` is the moment in UTC whose state of Debian's archive
    that base is built from (None: today's).
    With `bytecode` the image holds the packages' modules compiled, so that programs start sooner.
    """

    base: str = "auto"
    apt: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    snapshot: str | None = field(default=None, metadata=OPTIONAL)
    bytecode: bool = field(default=False, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class ResourceSpec:
    """`gpus` is `none`, `all` or indices (`0,1`); `cpus` is the number of threads, which is part of the bits: None
    is settled when the run starts; `memory` and `shm` are sizes (`8g`, `512m`; see `parse_size`).
    """

    gpus: str = "none"
    cpus: int | None = None
    memory: str | None = None
    shm: str = "1g"


@dataclass(frozen=True, kw_only=True)
class TrajectorySpec:
    """What is recorded beside the losses: weights and random states are digested after the first step of an optimizer
    and then every `digest_every` of its steps; 0 leaves digests out.
    """

    digest_every: int = DEFAULT_DIGEST_EVERY


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run as asked for. `loader_seeding` is `worker` or `batch`, which makes augmentation independent of the number
    of a data loader's workers (docs/determinism.md). `pythonpath` are the project's folders in which the program finds
    modules, beside those that Python looks in by itself. `data` are files or folders the program reads (relative to the
    project), `env` names the variables of the caller that the program may see, `outputs` what to keep of its files;
    with `outputs_judged` a replay must write them again to the byte. `metrics` are files in which the program writes
    results, which are judged like those that it logs; `unjudged_metrics` are patterns (of fnmatch) for names of metrics
    that a replay need not repeat, beside those that runtime/unjudged.py knows.
    """

    name: str
    command: tuple[str, ...]
    seed: int = DEFAULT_SEED
    deterministic: bool = False
    loader_seeding: str = field(default=SEED_WORKERS, metadata=OPTIONAL)
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)
    image: ImageSpec = field(default_factory=ImageSpec)
    resources: ResourceSpec = field(default_factory=ResourceSpec)
    trajectory: TrajectorySpec = field(default_factory=TrajectorySpec)
    pythonpath: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    data: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    network: bool = False
    outputs: tuple[str, ...] = ("outputs",)
    outputs_judged: bool = field(default=False, metadata=OPTIONAL)
    metrics: tuple[str, ...] = field(default=(), metadata=OPTIONAL)
    unjudged_metrics: tuple[str, ...] = field(default=(), metadata=OPTIONAL)


# Not all zeros; a fraction of at most thousandths, and only of a unit: so every size is at least one byte.
_SIZE = r"(?=[0-9.]*[1-9])([0-9]{1,15}(?:\.[0-9]{1,3}(?= ?[kmgtKMGT]))?) ?(?:([kmgtKMGT])[iI]?[bB]?|[bB])?"


def parse_size(text: str) -> int:
    """Return the bytes that a size means: a number and `k`, `m`, `g` or `t` (powers of 1024, as Docker reads them).

    `512m`, `1.5g`, `8GiB` and `1048576` are sizes. Raises SpecError for anything else, and for nothing at all.
    """
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise SpecError(f"{text!r} is not a size", details=("expected a number and a unit, such as 512m or 8g",))
    return int(decimal.Decimal(match[1]) * 1024 ** " kmgt".index((match[2] or " ").lower()))


def slug(text: str) -> str:
    """Return the nearest name for `text`: lower-case letters, digits, dots, underscores and hyphens, at most 64."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._-]+", "-", ascii_text).lstrip("._-")[:64].rstrip("._-") or "run"


# Flags are named after their fields, but for these.
_FLAGS = {
    "command": "-- COMMAND",
    "outputs": "--output",
    "groups": "--group",
    "extras": "--extra",
    "unjudged_metrics": "--unjudged-metric",
}

NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,63}"
# No empty, `.` or `..` part, no slash at either end, no control character: such a path stays where it is put.
INNER_PATH_PATTERN = r"(?!/)(?!(?:[^\u0000]*/)?\.{0,2}(?:/|$))[^\u0000-\u001f\u007f-\u009f]{1,4096}"
# reprobox sets these itself; a caller's value would change the bits, or the place where the program looks for modules.
_OWN_VARIABLES = (
    "PATH", "HOME", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "CUBLAS_WORKSPACE_CONFIG",
)  # fmt: skip

_TORCH_BACKEND = r"cpu|auto|xpu|cu[0-9]{2,3}|rocm[0-9](?:\.[0-9]){1,2}"
_DATE = r"2[0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"


def _midnight(text: str) -> str | None:
    return f"{text}T00:00:00Z" if re.fullmatch(_DATE, text) else None


def _package_name(text: str) -> str | None:
    """Return the package meant by `libgl1=1.6.0` or `LibGL1`."""
    name = text.partition("=")[0].strip().lower()
    return name if re.fullmatch(r"[a-z0-9][a-z0-9+.-]{1,127}", name) and name != text else None


def _torch_backend(text: str) -> str | None:
    """Return the build meant by `CUDA 12.8`, `12.8`, `rocm-6.3` or `GPU`."""
    word = re.sub(r"[\s_-]", "", text.lower())
    if word in ("gpu", "cuda", "nvidia"):
        return "auto"
    version = re.fullmatch(r"(?:cuda|cu)?([0-9]{1,2})\.([0-9])(?:\.[0-9]+)?|cuda([0-9]{3})", word)
    if version is not None:
        return f"cu{version[3] or version[1] + version[2]}"
    return word if re.fullmatch(_TORCH_BACKEND, word) else closest(word, ("cpu", "auto", "xpu"))


_INNER_PATH = Rule(expected="a path inside the project, relative to it", pattern=INNER_PATH_PATTERN)
# PEP 508 and PEP 735: what an extra or a group may be called.
_GROUP = Rule(expected="a name such as train or dev-gpu", pattern=r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_SIZE_RULE = Rule(expected="a size such as 512m, 1.5g or a number of bytes", pattern=_SIZE)

RULES: Rules = {
    RunSpec: {
        "name": Rule(
            expected="lower-case letters, digits, dots, underscores and hyphens, at most 64",
            pattern=NAME_PATTERN,
            suggest=slug,
        ),
        "command": Rule(
            # Those that no manifest bears: all but tab and line breaks, which a `python -c` may need.
            expected="a program and its arguments, without control characters",
            pattern=r"[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*",
        ),
        "seed": Rule(expected=f"a whole number from 0 to {MAX_SEED}", minimum=0, maximum=MAX_SEED),
        "loader_seeding": Rule(expected="worker or batch", choices=(SEED_WORKERS, SEED_BATCHES)),
        "pythonpath": Rule(
            # A colon would part it in two.
            expected="a folder inside the project, relative to it and without a colon, or . for the project itself",
            pattern=rf"\.|(?=[^:]+$){INNER_PATH_PATTERN}",
        ),
        "data": _INNER_PATH,
        "env": Rule(
            expected="the name of a variable that reprobox does not set itself (PATH, HOME, PYTHONHASHSEED, ...)",
            pattern=rf"(?!(?:{'|'.join(_OWN_VARIABLES)}|REPROBOX_.*|MKL_.*)$)[A-Za-z_][A-Za-z0-9_]{{0,127}}",
            suggest=lambda text: "the field `pythonpath: [src]`" if text == "PYTHONPATH" else None,
        ),
        "outputs": _INNER_PATH,
        "metrics": Rule(
            expected=f"a file inside the project that ends in .{', .'.join(METRIC_FILES)}",
            pattern=rf"(?=.*\.(?:{'|'.join(METRIC_FILES)})$){INNER_PATH_PATTERN}",
        ),
        "unjudged_metrics": Rule(
            expected=f"the name of a metric, or a pattern such as debug/*, of at most {MAX_NAME} characters",
            pattern=rf"[^\u0000-\u001f\u007f-\u009f]{{1,{MAX_NAME}}}",
        ),
    },
    EnvironmentSpec: {
        "python": Rule(expected="a minor version from 3.10 to 3.14", pattern=r"3\.1[0-4]"),
        "requirements": _INNER_PATH,
        "groups": _GROUP,
        "extras": _GROUP,
        "exclude_newer": Rule(
            expected="a day such as 2026-05-31, or a moment such as 2026-05-31T12:00:00Z",
            pattern=r"[0-9]{4}-[01][0-9]-[0-3][0-9](?:T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z)?",
        ),
        "torch_backend": Rule(
            expected="cpu, auto, a CUDA such as cu128, a ROCm such as rocm6.3, or xpu",
            pattern=_TORCH_BACKEND,
            suggest=_torch_backend,
        ),
    },
    ImageSpec: {
        "base": Rule(
            expected="auto, debian, debian:SUITE, local:REFERENCE or an image such as python:3.11-slim",
            pattern=r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}",
        ),
        # Debian Policy, 5.6.1. No version, no option, no file: only names that Debian's own archive knows.
        "apt": Rule(
            expected="the name of a Debian package, such as libgl1",
            pattern=r"[a-z0-9][a-z0-9+.-]{1,127}",
            suggest=_package_name,
        ),
        "snapshot": Rule(
            expected="a moment in UTC such as 2026-11-01T00:00:00Z",
            pattern=rf"{_DATE}T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){{2}}Z",
            suggest=_midnight,
        ),
    },
    ResourceSpec: {
        "gpus": Rule(expected="none, all or indices such as 0,1", pattern=r"none|all|[0-9]{1,3}(?:,[0-9]{1,3})*"),
        "cpus": Rule(expected="a whole number from 1 to 4096", minimum=1, maximum=4096),
        "memory": _SIZE_RULE,
        "shm": _SIZE_RULE,
    },
    TrajectorySpec: {"digest_every": Rule(expected="a whole number from 0", minimum=0, maximum=10**9)},
}


def load_spec(
    project: Path, *, file: Path | None, overrides: Mapping[str, object], need_command: bool = True
) -> RunSpec:
    """Read `file` (default: `reprobox.yaml` in `project`, if there is one), lay `overrides` over it, and check all.

    `overrides` has dotted names (`seed`, `resources.gpus`, `environment.requirements`, `command`); a value of None
    means that the flag was not given. The name defaults to that of the project's folder. Without `need_command` the
    spec may lack a command, for those who want the image alone. Raises SpecError, naming every mistake by file and line
    or by flag, what was expected, and what was probably meant.
    """
    path = file or project / SPEC_FILE
    document = Document(data={}, source=shown(path))
    if file is not None or path.exists():
        document = read_document(path, what=SPEC_FILE, max_bytes=MAX_SPEC_BYTES, error=SpecError)
    given: dict[Where, object] = {
        tuple(name.split(".")): value for name, value in overrides.items() if value is not None
    }

    data = _overlaid(document.data, given)
    problems = _convenient(data)
    if data.get("command") is None:
        data["command"] = []
    if data.get("name") is None:
        data["name"] = slug(project.absolute().name)
    spec, found = build(RunSpec, data, RULES)
    # What `_convenient` could not read it has left as it was, and has said what is wrong with it.
    known = {problem.path for problem in problems}
    problems += [problem for problem in found if problem.path not in known]
    if spec is None or problems:
        problems.sort(key=lambda problem: document.line_of(problem.path) or 0)
        raise report(
            problems, source=document.source, subject=SPEC_FILE, place=_places(document, given), error=SpecError
        )
    if not spec.command and need_command:
        raise SpecError(
            "there is nothing to run: no command was given",
            details=(f"looked in {document.source} and after --",),
            hint=f"reprobox run -- python train.py, or `command: [python, train.py]` in {SPEC_FILE}",
        )
    # Naming a thing twice asks for nothing more, but would be mounted or kept twice.
    lists = ("data", "env", "outputs", "pythonpath", "metrics", "unjudged_metrics")
    once: dict[str, Any] = {name: tuple(dict.fromkeys(getattr(spec, name))) for name in lists}
    image = replace(spec.image, apt=tuple(sorted(set(spec.image.apt))))
    return replace(spec, image=image, **once)


def _places(document: Document, given: Mapping[Where, object]) -> Callable[[Where], str]:
    """Return what names the origin of an entry: the flag that set it, else its line in the file."""

    def place(path: Where) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in given:
                name = str(path[length - 1])
                return _FLAGS.get(name, f"--{name.replace('_', '-')}")
        return document.place(path)

    return place


def _overlaid(data: Mapping[str, Any], given: Mapping[Where, object]) -> dict[str, Any]:
    """Return a copy of `data` with the overrides laid over it; an entry that should hold keys but does not is kept."""
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for path, value in given.items():
        plain = to_plain(value)
        if len(path) == 1:
            merged[str(path[0])] = plain
        elif merged.get(str(path[0])) is None:
            merged[str(path[0])] = {path[1]: plain}
        elif isinstance(merged[str(path[0])], dict):
            merged[str(path[0])][path[1]] = plain
    return merged


def _convenient(data: dict[str, Any]) -> list[Problem]:
    """Turn what people write by habit into what the model holds, where it can mean only one thing.

    A command on one line, numbers in a command, sizes and GPU indices that look like numbers, `./` before a path.
    """
    problems = []
    command = data.get("command")
    if isinstance(command, str):
        try:
            data["command"] = shlex.split(command)
        except ValueError as error:
            problems.append(Problem(path=("command",), text=f"expected a command line, found one with {error}".lower()))
    elif isinstance(command, list):
        data["command"] = [_digits(item) for item in command]
    # A section that is there but empty, as in a file whose lines are commented out, asks for nothing.
    for section in ("environment", "image", "resources", "trajectory"):
        if data.get(section, ...) is None:
            del data[section]
    resources = data.get("resources")
    if isinstance(resources, dict):
        for key in ("gpus", "memory", "shm"):
            resources[key] = _digits(resources[key]) if key in resources else None
            if resources[key] is None:
                del resources[key]
        if isinstance(resources.get("gpus"), list) and all(isinstance(each, int) for each in resources["gpus"]):
            resources["gpus"] = ",".join(map(str, resources["gpus"])) or "none"
    for key in ("data", "outputs", "pythonpath", "metrics"):
        if isinstance(data.get(key), list):
            data[key] = [_tidy(item) for item in data[key]]
    environment = data.get("environment")
    if isinstance(environment, dict) and "requirements" in environment:
        environment["requirements"] = _tidy(environment["requirements"])
    return problems


def _digits(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _tidy(value: Any) -> Any:
    return posixpath.normpath(value) if isinstance(value, str) and value else value

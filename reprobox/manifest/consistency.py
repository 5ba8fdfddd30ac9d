"""What must agree within one manifest: counts, names and choices that are written in two places.

Only what is cheap: whether the losses decode and whether the code archive matches its hash is checked where they are
used.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from datetime import datetime

from reprobox.lock.model import LockedPackage
from reprobox.manifest.model import Manifest, StreamRecord
from reprobox.validation import Problem, Where

# Times are written to the second, how long it took to a tenth.
_ROUNDED = 1.2


def manifest_problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield every place in which the manifest contradicts itself."""
    spec, run, result = manifest.spec, manifest.run, manifest.result
    # What a person is shown and what a replay executes must be the same.
    for here, shown, there, meant in (
        (("name",), manifest.name, "spec.name", spec.name),
        (("run", "command"), run.command, "spec.command", spec.command),
        (("run", "seed"), run.seed, "spec.seed", spec.seed),
        (("run", "deterministic"), run.deterministic, "spec.deterministic", spec.deterministic),
        (("result", "steps"), result.steps, "the losses of all streams", sum(s.count for s in manifest.streams)),
        (
            ("result", "optimizer_steps"),
            result.optimizer_steps,
            "the optimizer steps of all streams",
            sum(s.optimizer_steps for s in manifest.streams),
        ),
        (("archive",), manifest.archive is not None, "code.archive.inline", manifest.code.archive.inline),
    ):
        if shown != meant:
            yield Problem(path=here, text=f"does not agree with {there}")
    if [posixpath.normpath(path) for path in spec.data] != [record.path for record in manifest.data]:
        yield Problem(path=("data",), text="is not the data that the spec names")
    for index, output in enumerate(result.outputs):
        if not any(output.path == path or output.path.startswith(f"{path}/") for path in spec.outputs):
            yield Problem(path=("result", "outputs", index, "path"), text="is not among the outputs of the spec")
    if spec.environment.python not in (None, manifest.lock.python):
        yield Problem(path=("lock", "python"), text="is not the Python that the spec names")
    lasted = _moment(run.ended) - _moment(run.started)
    if abs(lasted - float(run.seconds)) > _ROUNDED:
        yield Problem(path=("run", "seconds"), text="does not agree with when the run started and ended")
    if (run.status == "completed") != (run.exit_code == 0) and run.status != "interrupted":
        yield Problem(path=("run", "exit_code"), text=f"cannot belong to a run that is {run.status}")
    for name, loss in (("first_loss", result.first_loss), ("final_loss", result.final_loss)):
        if (loss is None) != (result.steps == 0):
            yield Problem(path=("result", name), text="must be there exactly when there are steps")
    for number, stream in enumerate(manifest.streams):
        yield from _stream(stream, ("streams", number))
    yield from _repeated(("result", "metric_files"), "name", (one.name for one in result.metric_files))
    if result.metric_files and not spec.metrics:
        yield Problem(path=("result", "metric_files"), text="stand in files, of which the spec names none")
    if manifest.engine.kind == "docker" and manifest.image is None:
        yield Problem(path=("image",), text="expected an image, as the engine is docker")
    yield from _repeated(("result", "outputs"), "path", (output.path for output in result.outputs))
    yield from _repeated(("data",), "path", (record.path for record in manifest.data))
    yield from _repeated(("lock", "packages"), "name", (package.name for package in manifest.lock.packages))
    for index, package in enumerate(manifest.lock.packages):
        yield from _package(package, ("lock", "packages", index))


def _moment(text: str) -> float:
    """Return a time as seconds since 1970; the rules have seen to its form."""
    return datetime.fromisoformat(text).timestamp()


def _stream(stream: StreamRecord, path: Where) -> Iterator[Problem]:
    """What is said of the optimizers must add up to what is said of the process."""
    for name, total, parts in (
        ("optimizer_steps", stream.optimizer_steps, sum(one.steps for one in stream.optimizers)),
        ("skipped_steps", stream.skipped_steps, sum(one.skipped_steps for one in stream.optimizers)),
    ):
        if total != parts:
            yield Problem(path=(*path, name), text="does not agree with those of the optimizers")
    for place, one in enumerate(stream.optimizers):
        here = (*path, "optimizers", place)
        if one.training > place:
            yield Problem(path=(*here, "training"), text="is the number of a later optimizer")
        if (one.first_step is None) != (one.steps == 0) or (one.last_step is None) != (one.steps == 0):
            yield Problem(path=(*here, "first_step"), text="must be there exactly when there are steps, as last_step")
        elif one.first_step is not None and one.last_step is not None:
            span = one.last_step - one.first_step + 1
            if span < one.steps or one.last_step >= stream.optimizer_steps:
                yield Problem(path=(*here, "last_step"), text="does not agree with the number of steps")
    yield from _repeated((*path, "digest_kinds"), "", stream.digest_kinds)
    yield from _repeated((*path, "metrics"), "name", (one.name for one in stream.metrics))


def _repeated(path: Where, field: str, values: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Problem(
                path=(*path, index, *((field,) if field else ())), text=f"{value} stands here for the second time"
            )
        seen.add(value)


def _package(package: LockedPackage, path: Where) -> Iterator[Problem]:
    """A wheel's file name tells its project and version (PEP 427), which must be those beside it."""
    # packaging takes some 30 ms to load, which `--help` must not pay
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    try:
        version = Version(package.version)
    except InvalidVersion:
        yield Problem(path=(*path, "version"), text=f"expected a version (PEP 440), found {package.version}")
        return
    try:
        name, file_version, _build, _tags = parse_wheel_filename(package.file)
    except InvalidWheelFilename:
        yield Problem(path=(*path, "file"), text=f"expected the file name of a wheel, found {package.file}")
        return
    if name != package.name or file_version != version:
        yield Problem(path=(*path, "file"), text=f"{package.file} is not {package.name} {package.version}")

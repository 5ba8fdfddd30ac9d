"""What must agree within one manifest: counts, names and choices that are written in two places.

Only what is cheap: whether the losses decode and whether the code archive matches its hash is checked where they are
used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reprobox.lock.model import LockedPackage
from reprobox.manifest.model import Manifest
from reprobox.runtime.metrics import NAME as METRIC_NAME
from reprobox.validation import Problem, Where


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
    if (run.status == "completed") != (run.exit_code == 0) and run.status != "interrupted":
        yield Problem(path=("run", "exit_code"), text=f"cannot belong to a run that is {run.status}")
    for name, loss in (("first_loss", result.first_loss), ("final_loss", result.final_loss)):
        if (loss is None) != (result.steps == 0):
            yield Problem(path=("result", name), text="must be there exactly when there are steps")
    for name in result.metrics:
        if METRIC_NAME.fullmatch(name) is None:
            yield Problem(path=("result", "metrics", name), text="is no name of a metric")
    if manifest.engine.kind == "docker" and manifest.image is None:
        yield Problem(path=("image",), text="expected an image, as the engine is docker")
    yield from _repeated(("result", "outputs"), "path", (output.path for output in result.outputs))
    yield from _repeated(("data",), "path", (record.path for record in manifest.data))
    yield from _repeated(("lock", "packages"), "name", (package.name for package in manifest.lock.packages))
    for index, package in enumerate(manifest.lock.packages):
        yield from _package(package, ("lock", "packages", index))


def _repeated(path: Where, field: str, values: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield Problem(path=(*path, index, field), text=f"{value} stands here for the second time")
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

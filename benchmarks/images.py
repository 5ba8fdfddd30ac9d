"""Building the image of numpy, transformers and click: reprobox against `docker build` with pip and with uv.

Promised: a cold build at least 3 x faster than `RUN pip install` and faster than `RUN uv pip install`; one dependency
changed: under 2 s; nothing changed: under 0.3 s; two builds give the same image.

All rivals install the same wheels by the same hashes, from files (no network is measured), on the same Debian, which
is reprobox's own base imported into Docker with pip (compiled) and uv already inside. `docker build` is the classic
one, as it leaves nothing behind that cannot be removed by ID. It copies the wheels into the image first; the column
`RUN alone` leaves that out, because BuildKit could mount them. pip compiles bytecode, uv and reprobox do not:
`--no-compile` is there for a like comparison. A cold reprobox has a cache with base, lock and wheels, and no layer; it
is timed as a whole command. With `--bytecode` the cold build is also measured with bytecode for reprobox and uv, which
is what RUN pip compares with then. Every image made here is removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

from timing import ask, heading, interleaved, judge, median, reprobox, seconds, table, verdict

REQUIREMENTS = ("numpy", "transformers", "click")
CHANGED = "click"
PIP_TIMES, CHANGED_S, UNCHANGED_S = 3.0, 2.0, 0.3
LABEL = "org.reprobox.benchmark"
ENVIRONMENT = "/opt/benchmark"

_INSTALL = "--no-index --find-links /wheels --require-hashes --no-deps -r /requirements.lock"
RIVALS = {
    "docker build, RUN pip": f"python -m pip install --no-cache-dir {_INSTALL}",
    "docker build, RUN pip --no-compile": f"python -m pip install --no-compile --no-cache-dir {_INSTALL}",
    "docker build, RUN uv": f"uv pip install --no-cache {_INSTALL}",
}
PIP, PLAIN_PIP, UV = RIVALS
OURS = "reprobox image build"
OURS_COMPILED = "reprobox image build --bytecode"
UV_COMPILED = "docker build, RUN uv --compile-bytecode"
COMPILING = {UV_COMPILED: f"uv pip install --compile-bytecode --no-cache {_INSTALL}"}


@dataclass
class Bench:
    """What the measurements share; `contexts` and `projects` hold the same locks, each with one dependency changed."""

    folder: Path
    base: str
    label: str
    prepared: Path
    contexts: list[Path]
    projects: list[Path]
    foreign: frozenset[str]
    cold: Path
    ours: list[str] = field(default_factory=list)
    run_alone: dict[str, list[float]] = field(default_factory=dict)
    built: dict[str, list[str]] = field(default_factory=dict)
    peaks: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)


def main() -> int:
    """Measure, print, and return 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bytecode", action="store_true", help="measure reprobox and uv with bytecode, too")
    arguments = parser.parse_args()
    rounds = arguments.rounds

    heading(f"An image of {', '.join(REQUIREMENTS)}: {rounds} interleaved builds each, wheels already downloaded")
    label = f"{LABEL}={os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        ours: list[str] = []
        try:
            bench = prepare(Path(folder), label, rounds)
            bench.ours = ours
            kept = [cold(bench, rounds, compiled=arguments.bytecode), changed(bench, rounds), unchanged(bench)]
        finally:
            clean(label, ours)
    return 0 if all(kept) else 1


def prepare(folder: Path, label: str, rounds: int) -> Bench:
    """Lock, fetch, and put everything in its place; none of this is timed."""
    from reprobox.cache import cache_root
    from reprobox.engines import open_engine
    from reprobox.image.bases import resolve_base
    from reprobox.image.layers import layer_path
    from reprobox.lock.download import fetch_wheels
    from reprobox.lock.export import export_requirements
    from reprobox.lock.platforms import platform_for
    from reprobox.lock.resolution import resolve
    from reprobox.progress import Observer

    cache, quiet = cache_root(), Observer()
    base = resolve_base("debian", open_engine("docker"), cache=cache, observer=quiet)  # type: ignore[arg-type]
    platform = platform_for(base.architecture, base.glibc)
    prepared = folder / "prepared"
    (prepared / "layers").mkdir(parents=True)
    shutil.copytree(cache / "bases", prepared / "bases")
    root = layer_path(cache, base.layers[0].diff_id)
    link(str(root), str(prepared / "layers" / root.name))

    contexts, projects, limit = [], [], ""
    for number in range(rounds + 1):
        project, context = folder / f"project-{number}", folder / f"context-{number}"
        project.mkdir()
        (context / "wheels").mkdir(parents=True)
        wanted = project / "requirements.txt"
        wanted.write_text("".join(f"{name}{limit if name == CHANGED else ''}\n" for name in REQUIREMENTS))
        lock, _ = resolve(wanted, python=base.python, platform=platform, cache=cache, observer=quiet)
        wheels = fetch_wheels(lock, requirements=wanted, cache=cache, observer=quiet)
        # From here on the lock itself is what all rivals install.
        wanted.write_text(export_requirements(lock))
        shutil.copyfile(wanted, context / "requirements.lock")
        for package in lock.packages:
            source = wheels[package.sha256]
            link(str(source), str(context / "wheels" / package.file))
            shutil.copytree(
                source.parent, prepared / "wheels" / package.sha256, copy_function=link, dirs_exist_ok=number > 0
            )
        resolve(wanted, python=base.python, platform=platform, cache=prepared, observer=quiet)
        contexts.append(context)
        projects.append(project)
        limit = f"<{lock.version_of(CHANGED)}"
    print(f"{len(lock.packages)} wheels, Debian {base.record.reference}, Python {base.python}", end=", ")
    tools = tool_versions()
    print(f"pip {tools['pip']}, uv {tools['uv']}, classic docker build\n", flush=True)

    imported = ask(["docker", "import", "--change", f"LABEL {label}", str(root)])
    return Bench(
        folder=folder,
        base=base_with_tools(folder / "tools", imported, f"/usr/bin/python{base.python}", base.python),
        label=label,
        prepared=prepared,
        contexts=contexts,
        projects=projects,
        cold=folder / "cold",
        foreign=frozenset(ask(["docker", "images", "--all", "--quiet", "--no-trunc"]).split()),
    )


def link(source: str, target: str) -> None:
    """Give a file a second name; copy it where that is another disk. One that is there is left."""
    if Path(target).exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def tool_versions() -> dict[str, str]:
    """Return the versions of the pip and uv that the rivals use: those beside reprobox."""
    return {name: distribution(name).version for name in ("pip", "uv")}


def base_with_tools(context: Path, imported: str, python: str, version: str) -> str:
    """Build what the rivals start from: the base with an empty virtual environment, pip (compiled) and uv."""
    import uv

    context.mkdir()
    for name in ("pip", f"pip-{tool_versions()['pip']}.dist-info"):
        source = Path(str(distribution("pip").locate_file(name)))
        shutil.copytree(source, context / "packages" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(uv.find_uv_bin(), context / "uv")
    site = f"{ENVIRONMENT}/lib/python{version}/site-packages"
    (context / "Dockerfile").write_text(
        f"FROM {imported}\n"
        f"RUN {python} -m venv --without-pip {ENVIRONMENT}\n"
        f"COPY packages {site}\n"
        f"COPY uv {ENVIRONMENT}/bin/uv\n"
        f"RUN {ENVIRONMENT}/bin/python -m compileall -q {site} && {ENVIRONMENT}/bin/uv --version\n"
        f"ENV VIRTUAL_ENV={ENVIRONMENT} PATH={ENVIRONMENT}/bin:/usr/bin:/bin\n"
    )
    return build(context, "Dockerfile", context / "id")[0]


def build(context: Path, dockerfile: str, id_file: Path, *options: str) -> tuple[str, float, float]:
    """Run `docker build`; return the image's ID, the seconds it took, and those that its last RUN took of them."""
    command = ["docker", "build", "--force-rm", "--network", "none", "--iidfile", str(id_file), *options]
    started = time.perf_counter()
    run_began = run_ended = 0.0
    said: list[str] = []
    with subprocess.Popen(
        [*command, "--file", str(context / dockerfile), str(context)],
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith(("Step ", "Successfully built")):
                if run_began > run_ended:
                    run_ended = time.perf_counter()
                if " : RUN " in line:
                    run_began = time.perf_counter()
    taken = time.perf_counter() - started
    if process.returncode != 0:
        sys.exit("".join(said[-30:]) + f"docker build ended with {process.returncode}")
    return id_file.read_text().strip(), taken, run_ended - run_began


def build_rival(bench: Bench, name: str, number: int, *options: str) -> float:
    """Build lock `number` the rival's way; return the seconds."""
    context = bench.contexts[number]
    install = {**RIVALS, **COMPILING}
    dockerfile = f"Dockerfile-{list(install).index(name)}"
    (context / dockerfile).write_text(
        f"FROM {bench.base}\nCOPY wheels /wheels\nCOPY requirements.lock /\nRUN {install[name]}\n"
    )
    # The context is sent without the other Dockerfiles, so that they cannot matter.
    (context / ".dockerignore").write_text("*\n!wheels\n!requirements.lock\n")
    image, taken, run_alone = build(context, dockerfile, bench.folder / "id", *options)
    bench.built.setdefault(name, []).append(image)
    bench.run_alone.setdefault(name, []).append(run_alone)
    return taken


def build_ours(bench: Bench, number: int, cache: Path, *options: str, name: str = OURS) -> float:
    """Build lock `number` with reprobox and that cache; return the seconds of the whole command."""
    command = [*reprobox(), "image", "build", "--base", "debian", "--json", *options]
    command += ["--project", str(bench.projects[number])]
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        env={**os.environ, "REPROBOX_CACHE": str(cache)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        written = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    result = json.loads(written)
    image = result["image_id"]
    if image in bench.foreign:
        sys.exit(f"{image} was in Docker before, so building it again is not cold: remove it and run again")
    if image not in bench.ours:
        bench.ours.append(image)
    bench.built.setdefault(name, []).append(image)
    bench.peaks.append(usage.ru_maxrss / 1024)
    bench.inside.append(result["seconds"])
    return taken


def cold(bench: Bench, rounds: int, *, compiled: bool) -> bool:
    """Build everything from nothing but base, lock and wheels, and look at whether two builds are one image."""
    layers: dict[str, list[list[str]]] = {}

    def ours(name: str, *options: str) -> float:
        for image in bench.ours:
            ask(["docker", "image", "rm", image])
        bench.ours.clear()
        shutil.rmtree(bench.cold, ignore_errors=True)
        shutil.copytree(bench.prepared, bench.cold, copy_function=link)
        taken = build_ours(bench, 0, bench.cold, *options, name=name)
        layers.setdefault(name, []).append(diff_ids(bench.built[name][-1]))
        return taken

    def rival(name: str) -> float:
        taken = build_rival(bench, name, 0, "--no-cache")
        layers.setdefault(name, []).append(diff_ids(bench.built[name][-1]))
        return taken

    rivals = {**RIVALS, **COMPILING} if compiled else RIVALS
    cases: dict[str, Callable[[], float]] = {name: partial(rival, name) for name in rivals}
    if compiled:
        cases[OURS_COMPILED] = partial(ours, OURS_COMPILED, "--bytecode")
    # Last, so that the builds which follow find its cache.
    cases[OURS] = partial(ours, OURS)
    times = interleaved(cases, rounds, warm_up=False)
    if bench.built[OURS][-1] not in bench.ours:
        ours(OURS)
    # What compiled; everything above holds its layers as well.
    for image in set(ask(["docker", "images", "--quiet", "--no-trunc", "reprobox/base"]).split()) - bench.foreign:
        ask(["docker", "image", "rm", image])
    mine = median(times[OURS])
    rows = [("cold", "median", "each", "ratio", "RUN alone", "ratio", "same image ID", "same layers")]
    for name, values in times.items():
        alone = median(bench.run_alone[name]) if name in bench.run_alone else None
        first = layers[name][0]
        same = min(len(set(first) & set(other)) for other in layers[name])
        rows.append(
            (
                name,
                f"{median(values):.2f} s",
                " ".join(f"{value:.2f}" for value in values),
                f"{median(values) / mine:.2f} x",
                f"{alone:.2f} s" if alone else "",
                f"{alone / mine:.2f} x" if alone else "",
                "yes" if len(set(bench.built[name])) == 1 else "no",
                f"{same} of {len(first)}",
            )
        )
    table(rows)
    print(f"peak memory of reprobox: {max(bench.peaks):.0f} MiB")
    kept = [
        judge("RUN pip against reprobox, cold", median(times[PIP]) / mine, PIP_TIMES, "x", at_least=True),
        judge("RUN uv against reprobox, cold", median(times[UV]) / mine, 1.0, "x", at_least=True),
        verdict(f"one image ID from {rounds} clean caches", len(set(bench.built[OURS])) == 1),
    ]
    if compiled:
        for name in (PIP, UV_COMPILED):
            ratio = median(times[name]) / median(times[OURS_COMPILED])
            print(f"        {name} against {OURS_COMPILED}, cold: {ratio:.3g} x")
    print()
    return all(kept)


def changed(bench: Bench, rounds: int) -> bool:
    """Change one dependency: another one in each round."""
    numbers = {name: iter(range(1, rounds + 1)) for name in (OURS, *RIVALS)}
    cases: dict[str, Callable[[], float]] = {
        OURS: lambda: build_ours(bench, next(numbers[OURS]), bench.cold),
        **{name: partial(lambda name: build_rival(bench, name, next(numbers[name])), name) for name in RIVALS},
    }
    times = interleaved(cases, rounds, warm_up=False)
    return report(f"{CHANGED} changed", times, CHANGED_S)


def unchanged(bench: Bench) -> bool:
    """Change nothing. `import docker` is most of what the command takes, so the time within is printed too."""
    last = len(bench.projects) - 1
    cases: dict[str, Callable[[], float]] = {
        OURS: partial(build_ours, bench, last, bench.cold),
        **{name: partial(build_rival, bench, name, last) for name in RIVALS},
        "python -c 'import docker'": partial(seconds, [sys.executable, "-c", "import docker"]),
    }
    rounds = 7
    times = interleaved(cases, rounds)
    kept = report("nothing changed", times, UNCHANGED_S)
    print(f"of which base, lock, assembly and look-up in the engine: {median(bench.inside[-rounds:]):.3f} s")
    return kept


def report(title: str, times: dict[str, list[float]], limit: float) -> bool:
    """Print one comparison and judge reprobox's part."""
    mine = median(times[OURS])
    rows = [(title, "median", "fastest", "ratio")]
    for name, values in times.items():
        rows.append((name, f"{median(values):.2f} s", f"{min(values):.2f} s", f"{median(values) / mine:.2f} x"))
    table(rows)
    kept = judge(f"{OURS}, {title}", mine, limit, "s")
    print()
    return kept


def diff_ids(image: str) -> list[str]:
    """Return an image's layers, lowest first."""
    found: list[str] = json.loads(ask(["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", image]))
    return found


def clean(label: str, ours: list[str]) -> None:
    """Remove what was made here: reprobox's images by ID, the rivals' by the label that their common base carries."""
    for image in ours:
        ask(["docker", "image", "rm", image])
    listing = ["docker", "images", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}"]
    left = list(dict.fromkeys(ask(listing).split()))
    while left:
        # Newest first; an image with children goes with the last of them, and some of the list go with their children.
        for image in left:
            subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)
        before, left = left, list(dict.fromkeys(ask(listing).split()))
        if left == before:
            print(f"could not remove: {' '.join(left)}", file=sys.stderr)
            return


if __name__ == "__main__":
    sys.exit(main())

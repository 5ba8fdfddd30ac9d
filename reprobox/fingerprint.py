"""What machine this is: CPU, GPUs, driver, operating system. Nothing that names a person, a host or a network."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reprobox.digests import digest_of
from reprobox.validation import printable


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """`isa` holds the vector extensions that change numerical paths (`avx2`, `avx512f`), sorted; `cores` is logical."""

    model: str
    isa: tuple[str, ...]
    cores: int


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU as its driver names it; `uuid_hash` is `sha256:` of its UUID: enough to recognise it, not to trace it."""

    name: str
    compute_capability: str
    memory_mib: int
    uuid_hash: str
    mig: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine as observed; `driver` is NVIDIA's version or None without one; `memory_mib` is main memory."""

    os: str
    kernel: str
    architecture: str
    cpu: Cpu
    memory_mib: int
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None


class Difference(NamedTuple):
    """One respect in which two machines differ: `what`, as recorded and as found here, and what comes of it."""

    what: str
    recorded: str
    here: str
    effect: str


# Vector extensions for which torch, oneDNN, MKL or OpenBLAS choose other code paths. Each ends in its own bits.
_ISA_X86 = re.compile(
    r"sse4_2|avx|avx2|f16c|fma|avx_vnni\w{0,40}|avx_ifma|avx_ne_convert|avx512\w{0,40}|avx10\w{0,40}|amx_\w{1,40}",
    re.ASCII,
)
_ISA_ARM = re.compile(r"asimd|asimddp|asimdfhm|asimdhp|bf16|i8mm|neon|sme\w{0,40}|sve\w{0,40}", re.ASCII)
# ARM's cores by implementer and part (MIDR_EL1), because Linux gives them no name. Source: the reference manuals of
# the cores, as listed in util-linux's lscpu.
_ARM_CORES = {
    ("0x41", "0xd08"): "ARM Cortex-A72",
    ("0x41", "0xd0b"): "ARM Cortex-A76",
    ("0x41", "0xd0c"): "ARM Neoverse-N1",
    ("0x41", "0xd40"): "ARM Neoverse-V1",
    ("0x41", "0xd49"): "ARM Neoverse-N2",
    ("0x41", "0xd4f"): "ARM Neoverse-V2",
    ("0xc0", "0xac3"): "Ampere-1",
}
_GPU_QUERY = ("name", "compute_cap", "memory.total", "uuid", "mig.mode.current", "driver_version")
_GPU_TIMEOUT = 20.0
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")
_NUMBER = re.compile(r"[0-9]{1,15}")
_LONGEST = 200


def observe() -> Machine:
    """Look at this machine. What cannot be found out is `unknown`, 0 or absent; nothing is raised.

    Whatever a machine calls itself and its parts, no run is refused for it: names are made fit for one line.
    """
    gpus, driver = _observe_gpus()
    return Machine(
        os=_plain(parse_os_release(_text("/etc/os-release")) or platform.system()),
        kernel=_plain(platform.release()),
        architecture=_plain(platform.machine()),
        cpu=parse_cpuinfo(_text("/proc/cpuinfo"), cores=os.cpu_count() or 1),
        memory_mib=parse_meminfo(_text("/proc/meminfo")),
        gpus=gpus,
        driver=driver,
    )


def differences(recorded: Machine, here: Machine, *, gpus: bool) -> list[Difference]:
    """Return what could make the same program give other bits here; the driver, which rarely does, last.

    Without `gpus` neither run's program could see one, so that GPUs and their driver are of no account.
    The number of cores is not among it: how many threads a run uses is part of the run.
    """
    other_cpu = "CPU libraries may take other paths, with other rounding"
    found = [
        Difference("architecture", recorded.architecture, here.architecture, "other code computes"),
        Difference("cpu", recorded.cpu.model, here.cpu.model, other_cpu),
        Difference("cpu extensions", *_only_in_each(recorded.cpu.isa, here.cpu.isa), other_cpu),
    ]
    if gpus:
        found += [
            Difference("gpu", _gpu_text(recorded.gpus), _gpu_text(here.gpus), "GPU libraries may choose other kernels"),
            Difference("driver", recorded.driver or "none", here.driver or "none", "seldom changes a result"),
        ]
    return [difference for difference in found if difference.recorded != difference.here]


def parse_os_release(text: str) -> str:
    """Return the name and version of the system from `/etc/os-release` (os-release(5)); empty if there is none."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    name = fields.get("PRETTY_NAME") or fields.get("NAME", "")
    try:
        return " ".join(shlex.split(name))
    except ValueError:
        return name.strip("\"'")


def parse_cpuinfo(text: str, *, cores: int) -> Cpu:
    """Return the CPU from `/proc/cpuinfo`; `cores` is taken where the text counts none."""
    fields: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        name, colon, content = (part.strip() for part in line.partition(":"))
        if colon:
            fields.setdefault(name, content)
            count += name == "processor"
    known, flags = (_ISA_X86, fields["flags"]) if "flags" in fields else (_ISA_ARM, fields.get("Features", ""))
    return Cpu(
        model=_cpu_model(fields),
        isa=tuple(sorted({flag for flag in flags.split() if known.fullmatch(flag)})),
        cores=count or cores,
    )


def parse_meminfo(text: str) -> int:
    """Return main memory in MiB from `/proc/meminfo`, 0 where it does not say."""
    match = re.search(r"^MemTotal:\s+([0-9]{1,15}) kB$", text, re.MULTILINE)
    return int(match[1]) // 1024 if match else 0


def parse_gpus(text: str) -> tuple[tuple[Gpu, ...], str | None]:
    """Return the GPUs and the driver's version from nvidia-smi's lines: the fields of `_GPU_QUERY`, no header or units.

    Fields that the driver does not know (`[N/A]`) become 0; lines of any other form are passed over.
    """
    gpus = []
    driver: str | None = None
    for line in text.splitlines():
        fields = [_known(field.strip()) for field in line.split(",")]
        if len(fields) != len(_GPU_QUERY) or not fields[0]:
            continue
        name, capability, memory, uuid, mig, version = fields
        gpus.append(
            Gpu(
                name=_plain(name),
                compute_capability=capability if _CAPABILITY.fullmatch(capability) else "0.0",
                memory_mib=int(memory) if _NUMBER.fullmatch(memory) else 0,
                uuid_hash=digest_of(uuid.encode(errors="surrogateescape")),
                mig=mig == "Enabled",
            )
        )
        driver = driver or (_plain(version) if version else None)
    return tuple(gpus), driver


def _observe_gpus() -> tuple[tuple[Gpu, ...], str | None]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return (), None
    command = [tool, f"--query-gpu={','.join(_GPU_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, check=False, timeout=_GPU_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return (), None
    # A tool without its driver prints why on standard output and fails.
    return parse_gpus(answer.stdout.decode(errors="replace")) if answer.returncode == 0 else ((), None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_model(fields: dict[str, str]) -> str:
    model = fields.get("model name") or fields.get("Model") or ""
    if model:
        return _plain(model)
    implementer, part = fields.get("CPU implementer", ""), fields.get("CPU part", "")
    if implementer:
        return _ARM_CORES.get((implementer, part), _plain(f"ARM implementer {implementer} part {part}"))
    return "unknown"


def _plain(text: str) -> str:
    """Return a name as it can be written down: on one line, printable, not too long and never empty."""
    return printable(" ".join(text.split()), _LONGEST) or "unknown"


def _known(field: str) -> str:
    return "" if field.startswith("[") or field in ("N/A", "") else field


def _only_in_each(recorded: tuple[str, ...], here: tuple[str, ...]) -> tuple[str, str]:
    """Return what each side has and the other lacks, because the lists themselves are long."""
    gone = ", ".join(sorted(set(recorded) - set(here)))
    new = ", ".join(sorted(set(here) - set(recorded)))
    return (gone or "none of them", new or "none of them") if gone or new else ("", "")


def _gpu_text(gpus: tuple[Gpu, ...]) -> str:
    """Name the GPUs by what decides about bits: model and compute capability, each with how many there are."""
    counted: dict[str, int] = {}
    for gpu in gpus:
        name = f"{gpu.name} ({gpu.compute_capability}{', MIG' if gpu.mig else ''})"
        counted[name] = counted.get(name, 0) + 1
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(counted.items())) or "none"

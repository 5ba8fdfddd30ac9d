"""Which values each field of a manifest or receipt may hold: digests, dates, names, paths that stay inside the project.

Manifests travel, so their values are not trusted: a path cannot leave the folder it is put in, a file name is no path.
"""

from __future__ import annotations

from reprobox import spec
from reprobox.digests import PATTERN
from reprobox.fingerprint import Cpu, Gpu, Machine
from reprobox.image.model import BaseRecord, ImageRecord
from reprobox.lock.model import ORIGINS, PINNED_LINE, SDIST_FILE, BuiltFrom, Lock, LockedPackage
from reprobox.manifest.model import (
    SCHEMA_VERSION,
    EngineRecord,
    Manifest,
    MetricRecord,
    Optimizer,
    PrintedRecord,
    ProcessesRecord,
    Program,
    ResultRecord,
    RunRecord,
    StreamRecord,
    UncoveredProcess,
)
from reprobox.runtime.protocol import ROLES
from reprobox.snapshot.model import ArchiveRecord, CodeRecord, DataRecord, GitState, OutputRecord
from reprobox.validation import Rule, Rules

DIGEST = Rule(expected="sha256: and 64 hex digits", pattern=PATTERN)
TIME = Rule(
    expected="a time in UTC such as 2026-11-21T22:31:30Z",
    pattern=r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){2}(?:\.[0-9]{1,9})?Z",
)
SECONDS = Rule(expected="seconds as decimal text", pattern=r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
COUNT = Rule(expected="a count", minimum=0)
VERSION = Rule(expected="a version such as 0.1.0", pattern=r"[0-9][0-9A-Za-z.+!-]{0,63}")
NAME = Rule(expected="a name as in reprobox.yaml", pattern=spec.NAME_PATTERN)

_HEX_DIGEST = Rule(expected="64 hex digits", pattern=r"[0-9a-f]{64}")
_DECIMAL = Rule(
    expected="a decimal number, inf or nan", pattern=r"-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|inf|nan)"
)
_INNER_PATH = Rule(expected="a relative path without ..", pattern=spec.INNER_PATH_PATTERN)
_PRINTED = Rule(expected="text of at most 300 characters", pattern=r"[^\u0000]{1,300}")
_BASE64 = Rule(expected="base64", pattern=r"[A-Za-z0-9+/]*={0,2}")
_COLUMN = Rule(expected="base64, or sha256: and 64 hex digits", pattern=r"[A-Za-z0-9+/]*={0,2}|sha256:[0-9a-f]{64}")
_KIND = Rule(expected="a word of at most 30 letters", pattern=r"[a-z]{1,30}")
_WORD = Rule(expected="a word", pattern=r"[A-Za-z0-9][A-Za-z0-9._:+/-]{0,127}")
# One place of a file system's tree: no slash, and not `.` or `..`.
_FOLDER_NAME = Rule(expected="a plain folder name", pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _runs(one: str) -> str:
    """Return the pattern of one value for all losses, or runs of values."""
    return rf"(?:{one}|{one}\*[0-9]{{1,9}}(?:,{one}\*[0-9]{{1,9}})*)?"


_DTYPE = Rule(
    expected="a floating-point type, or runs of them such as float32*100,bfloat16*20",
    pattern=_runs("(?:b?float16|float32|float64)"),
)

_EVENT = Rule(
    expected="backward, grad or func, or runs of them such as backward*100,grad*20",
    pattern=_runs("(?:backward|grad|func)"),
)
_SCALE = Rule(
    expected="a positive decimal, or runs of them such as 65536*100,32768*20",
    pattern=_runs(r"(?:[0-9]{1,25}(?:\.[0-9]{1,25})?(?:e[-+][0-9]{2})?)"),
)

RULES: Rules = {
    **spec.RULES,
    Manifest: {
        "reprobox_manifest": Rule(expected=f"{SCHEMA_VERSION}", minimum=SCHEMA_VERSION, maximum=SCHEMA_VERSION),
        "name": NAME,
        "created": TIME,
        "reprobox": VERSION,
        "archive": _BASE64,
    },
    RunRecord: {
        "id": _FOLDER_NAME,
        "command": Rule(expected="a program and its arguments", pattern=r"[^\u0000]*", items=1),
        "seed": spec.RULES[spec.RunSpec]["seed"],
        "seed_scheme": Rule(expected="a whole number from 1", minimum=1),
        "status": Rule(expected="completed, failed or interrupted", choices=("completed", "failed", "interrupted")),
        "exit_code": Rule(expected="an exit status from 0 to 255", minimum=0, maximum=255),
        "started": TIME,
        "ended": TIME,
        "seconds": SECONDS,
        "parent": DIGEST,
    },
    ResultRecord: {
        "steps": COUNT,
        "optimizer_steps": COUNT,
        "first_loss": _DECIMAL,
        "final_loss": _DECIMAL,
        "metrics": _DECIMAL,
        "trajectory": DIGEST,
        "weights": DIGEST,
    },
    ProcessesRecord: {"covered": COUNT},
    UncoveredProcess: {"command": _PRINTED, "reason": _PRINTED},
    Program: {"name": _PRINTED, "count": Rule(expected="a count of at least one", minimum=1)},
    OutputRecord: {"path": _INNER_PATH, "bytes": COUNT, "digest": DIGEST},
    Machine: {"memory_mib": COUNT},
    Cpu: {"isa": _WORD, "cores": Rule(expected="a count of at least one", minimum=1)},
    Gpu: {
        "compute_capability": Rule(expected="a compute capability such as 9.0", pattern=r"[0-9]{1,2}\.[0-9]"),
        "memory_mib": COUNT,
        "uuid_hash": DIGEST,
    },
    EngineRecord: {
        "kind": Rule(expected="docker or local", choices=("docker", "local")),
        "gpu_access": _WORD,
    },
    ImageRecord: {
        "platform": Rule(expected="a platform such as linux/amd64", pattern=r"linux/[a-z0-9]+(?:/[a-z0-9]+)?"),
        "input_digest": DIGEST,
        "diff_ids": Rule(expected=DIGEST.expected, pattern=DIGEST.pattern, items=1),
        "config_digest": DIGEST,
        "manifest_digest": DIGEST,
    },
    BaseRecord: {
        "kind": Rule(expected="debian, registry or local", choices=("debian", "registry", "local")),
        "reference": spec.RULES[spec.ImageSpec]["base"],
        "digest": DIGEST,
        "packages": Rule(
            expected="name=version of a package",
            # Debian Policy, 5.6.1 and 5.6.12, with an architecture as dpkg writes it; and names of Python distributions
            # as their metadata writes them.
            pattern=r"[A-Za-z0-9][A-Za-z0-9+._-]*(?::[a-z0-9-]+)?=[A-Za-z0-9][A-Za-z0-9.+:~!_-]*",
        ),
        "debs": Rule(
            expected="file=sha256 of a Debian package",
            # The archive leaves a version's epoch out of file names.
            pattern=r"[a-z0-9][a-z0-9+.-]*_[0-9][A-Za-z0-9.+~-]*_[a-z0-9-]+\.deb=[0-9a-f]{64}",
        ),
    },
    CodeRecord: {
        "tree": Rule(expected="swh:1:dir: and 40 hex digits", pattern=r"swh:1:dir:[0-9a-f]{40}"),
        "files": COUNT,
    },
    GitState: {"commit": Rule(expected="40 or 64 hex digits", pattern=r"[0-9a-f]{40}(?:[0-9a-f]{24})?")},
    ArchiveRecord: {"digest": DIGEST, "bytes": COUNT},
    DataRecord: {"path": _INNER_PATH, "files": COUNT, "bytes": COUNT, "digest": DIGEST},
    Lock: {
        "python": Rule(expected="a minor version of Python such as 3.11", pattern=r"3\.[0-9]{1,2}"),
        "platform": _WORD,
    },
    LockedPackage: {
        "name": Rule(expected="a normalised project name (PEP 503)", pattern=r"[a-z0-9]+(?:-[a-z0-9]+)*"),
        "file": Rule(expected="the plain file name of a wheel", pattern=r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.whl"),
        "sha256": _HEX_DIGEST,
        "origin": Rule(expected=" or ".join((", ".join(ORIGINS[:-1]), ORIGINS[-1])), choices=ORIGINS),
    },
    BuiltFrom: {
        "file": Rule(expected="the plain file name of a source archive", pattern=SDIST_FILE),
        "sha256": _HEX_DIGEST,
        "requires": Rule(expected="name==version --hash=sha256: and 64 hex digits", pattern=PINNED_LINE),
    },
    StreamRecord: {
        "process": COUNT,
        "count": COUNT,
        "dtype": _DTYPE,
        "event": _EVENT,
        "scale": _SCALE,
        "sha256": _HEX_DIGEST,
        "optimizer_steps": COUNT,
        "skipped_steps": COUNT,
        "losses": _COLUMN,
        "optimizer_at": _COLUMN,
        "digest_count": COUNT,
        "digest_kinds": _KIND,
        "digests": _COLUMN,
        "tensor_count": COUNT,
        "tensors": _COLUMN,
        "role": Rule(expected=", ".join(ROLES), choices=ROLES),
        "missing": _PRINTED,
    },
    Optimizer: {
        "training": COUNT,
        "kind": Rule(expected="the name of a class", pattern=r"[!-~]{1,60}"),
        "steps": COUNT,
        "skipped_steps": COUNT,
        "first_step": COUNT,
        "last_step": COUNT,
        "weights": DIGEST,
    },
    MetricRecord: {
        "name": Rule(expected="a name of at most 300 characters", pattern=r"[^\u0000\t\n\r]{1,300}"),
        "count": Rule(expected="a count of at least one", minimum=1),
        "dtype": _DTYPE,
        "sha256": _HEX_DIGEST,
        "values": _COLUMN,
        "at": _COLUMN,
        "steps": _COLUMN,
    },
    PrintedRecord: {"bytes": COUNT, "lines": COUNT, "digest": DIGEST},
}

"""Whoever edits a manifest can compute its digest anew. Each of its values, forged so, is refused, decides about the
verdict, is listed beside it, or stands in the docs as a claim that nothing checks.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprobox.documents import write_document
from reprobox.errors import ReproboxError
from reprobox.manifest.derived import first_and_last, last_metrics
from reprobox.manifest.format import document_digest
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import MANIFEST_FORMAT, read_manifest
from reprobox.trajectory.codec import decode_stream, encode_stream, trajectory_digest
from reprobox.trajectory.model import Digests, Losses, Outcome, Series, Trajectory
from reprobox.workflow.inputs import check_inline_code
from reprobox.workflow.judge import Judged, judge, run_differences

EXAMPLE = Path(__file__).parent.parent / "assets" / "manifest-1.yaml"
DOCS = Path(__file__).parent.parent.parent / "docs" / "manifest.md"
DATA = yaml.safe_load(EXAMPLE.read_bytes())
GENUINE = Judged.of(read_manifest(EXAMPLE))

REFUSED, DECIDES, LISTED, CLAIM = "refused", "decides", "listed", "claim"

# What each value comes to, by the first pattern that its path matches.
EXPECTED = [
    (r"created|warnings\[\]|signatures", CLAIM),
    (r"reprobox", LISTED),
    (r"run\.(id|parent)", CLAIM),
    (r"run\.status", DECIDES),
    (r"run\.seed_scheme", LISTED),
    (r"run\..*", REFUSED),
    (r"result\.outputs.*", LISTED),
    (r"result\.printed\..*", CLAIM),
    (r"result\..*", REFUSED),
    (r"determinism\.data_loaders.*", CLAIM),
    (r"determinism\..*", LISTED),
    (r"processes\.uncovered", DECIDES),
    (r"processes\.watched", LISTED),
    (r"processes\..*", CLAIM),
    (r"machine\.cpu\.model", LISTED),
    (r"machine\..*", CLAIM),
    (r"engine\.(kind|gpu_access)", LISTED),
    (r"engine\.version", CLAIM),
    (r"software\..*|image\..*", LISTED),
    (r"code\.git\..*", CLAIM),
    (r"code\..*", REFUSED),
    (r"data\[\]\.path", REFUSED),
    (r"data\..*|data\[\].*", LISTED),
    (r"lock\.python|lock\.packages\[\]\.(name|version|file)", REFUSED),
    (r"lock\..*", LISTED),
    (
        r"spec\.(name|command.*|seed|deterministic|data.*|outputs.*|trajectory\.digest_every|environment\.python)",
        REFUSED,
    ),
    (r"spec\..*", LISTED),
    (r"streams\[\]\.(process|role)", DECIDES),
    (r"streams\[\]\.complete", DECIDES),
    (r"streams\[\]\.missing", LISTED),
    (r"streams\[\]\.optimizers\[\]\.kind", CLAIM),
    (r".*", REFUSED),
]

# Values that another one of the same kind stands in for, where a made-up one would be refused for its form alone.
FORGED: dict[str, Any] = {
    "run.status": "interrupted",
    "run.parent": "sha256:" + "1" * 64,
    "run.exit_code": 3,
    "result.unjudged_metrics": ["accuracy"],
    "result.metric_files": copy.deepcopy(DATA["streams"][0]["metrics"]),
    "result.metrics.accuracy": "0.9999",
    "processes.uncovered": [{"command": "python -S x.py", "reason": "python -S"}],
    "machine.gpus[].compute_capability": "8.0",
    "machine.driver": "1.0",
    "engine.kind": "local",
    "image.base.kind": "registry",
    "code.git.commit": "1" * 40,
    "spec.environment.python": "3.12",
    "spec.resources.gpus": "all",
    "spec.resources.memory": "8g",
    "spec.resources.shm": "2g",
    "spec.image.base": "debian",
    "streams[].dtype": "bfloat16",
    "streams[].event": "grad",
    "streams[].role": "rank",
    "streams[].missing": {"weather": "rain"},
    "streams[].digest_kinds[]": "weights",
    "signatures": [{"by": "Prof X", "ok": True}],
}


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value, of a list's items those of the first."""
    if isinstance(value, dict) and value:
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from leaves(value[0], (*path, 0))
    else:
        yield path


def named(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path)).replace(".0", "[]")


def other(value: Any) -> Any:
    """Return another value of the same form."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if not isinstance(value, str):
        return "x"
    for form, instead in (
        (r"sha256:[0-9a-f]{64}", "sha256:" + "1" * 64),
        (r"[0-9a-f]{64}", "1" * 64),
        (r"swh:1:dir:[0-9a-f]{40}", "swh:1:dir:" + "1" * 40),
        (r"\d{4}-.*Z", "2020-01-01T00:00:00Z"),
        (r"-?\d+(\.\d+)?", "7"),
    ):
        if re.fullmatch(form, value):
            return instead
    return f"{value}x"


PATHS = [path for path in leaves(DATA) if path not in (("digest",), ("reprobox_manifest",))]


def outcome(data: dict[str, Any]) -> str:
    """Say what becomes of a manifest with this content, whose digest is computed anew."""
    data["digest"] = document_digest(data)
    try:
        manifest = MANIFEST_FORMAT.read(write_document(data))
        check_inline_code(manifest)
        found = Judged.of(manifest)
    except ReproboxError as error:
        assert error.exit_code in (2, 5), "exit 5 is for a code archive that is not the one meant"
        return REFUSED
    verdict = judge(GENUINE, found)
    if verdict.outcome is not Outcome.EXACT:
        return DECIDES
    return LISTED if run_differences(GENUINE.manifest, manifest) or verdict.notes else CLAIM


@pytest.mark.parametrize("path", PATHS, ids=named)
def test_a_forged_value_is_refused_decides_is_listed_or_is_a_claim(path: tuple[str | int, ...]) -> None:
    data = copy.deepcopy(DATA)
    place = data
    for part in path[:-1]:
        place = place[part]
    name = named(path)
    place[path[-1]] = FORGED.get(name, other(place[path[-1]]))
    expected = next(what for pattern, what in EXPECTED if re.fullmatch(pattern, name))
    assert outcome(data) == expected


def test_the_docs_name_each_claim() -> None:
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.index("## What is claimed and not checked") :]
    section = section[: section.index("\n## ", 4)]
    for path in PATHS:
        name = named(path)
        if next(what for pattern, what in EXPECTED if re.fullmatch(pattern, name)) == CLAIM:
            parts = [part.removesuffix("[]") for part in name.split(".")]
            # The whole group, or the value itself.
            known = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
            assert any(f"`{one}`" in section for one in known), f"docs/manifest.md names no claim {name}"


def rewritten(**changes: Any) -> dict[str, Any]:
    """Return the manifest's data with other contents of its stream, all that follows from them made right again."""
    manifest: Manifest = GENUINE.manifest
    stream = replace(decode_stream(manifest.streams[0]), **changes)
    first, last = first_and_last((stream,))
    result = replace(
        manifest.result,
        first_loss=first,
        final_loss=last,
        metrics=last_metrics((stream,), {}),
        trajectory=trajectory_digest((stream,)),
    )
    changed = replace(manifest, streams=(encode_stream(stream),), result=result)
    data: dict[str, Any] = yaml.safe_load(MANIFEST_FORMAT.dump(changed))
    return data


STREAM: Trajectory = GENUINE.streams[0]


def another_metric() -> dict[str, Series]:
    series = Series()
    series.append(40, 2, "float64", bytes(8))
    return {"accuracy": series}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"losses": Losses([*STREAM.losses[:-1], replace(STREAM.losses[-1], bits="3cf74433")])}, DECIDES),
        ({"digests": Digests([*STREAM.digests[:-1], replace(STREAM.digests[-1], value="0" * 16)])}, DECIDES),
        ({"tensors": (*STREAM.tensors[:-1], replace(STREAM.tensors[-1], value="0" * 16))}, DECIDES),
        ({"metrics": another_metric()}, DECIDES),
        ({"metrics": {}}, DECIDES),
        ({"digests": Digests()}, REFUSED),
        ({"digests": Digests(STREAM.digests[:-1])}, REFUSED),
        ({"tensors": ()}, REFUSED),
        ({"tensors": tuple(one for one in STREAM.tensors if one.what != "state")}, REFUSED),
        ({"tensors": tuple(one for one in STREAM.tensors if one.what != "initial")}, REFUSED),
        ({"tensors": (), "missing": {"initial": "x", "gradient": "x", "state": "x"}}, LISTED),
        ({"digests": Digests(), "tensors": (), "missing": dict.fromkeys(("digests", "initial", "state"), "x")}, LISTED),
    ],
)
def test_what_was_recorded_cannot_be_changed_or_taken_out_unnoticed(changes: dict[str, Any], what: str) -> None:
    assert outcome(rewritten(**changes)) == what


def test_weights_may_be_unknown_only_for_a_reason() -> None:
    unknown = tuple(replace(one, weights=None) for one in STREAM.optimizers)
    data = rewritten(optimizers=unknown)
    data["result"]["weights"] = None
    assert outcome(data) == REFUSED
    data = rewritten(optimizers=unknown, missing={"final": "MemoryError"})
    data["result"]["weights"] = None
    assert outcome(data) == LISTED

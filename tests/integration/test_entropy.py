"""The entropy audit in real trainings: what it says of NumPy, torch and data loaders, and that it keeps silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox

pytestmark = pytest.mark.network

NOISY = """\
import os, time
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

torch.seed()
np.random.seed()
torch.manual_seed(int(time.time()))
np.random.seed(int(time.time() * 1000) % 2**32)
np.random.default_rng(time.time_ns())
np.random.RandomState(int(time.time()))
np.random.Generator(np.random.PCG64(np.int64(time.time())))
np.random.default_rng([7, int(time.time())])
np.random.SeedSequence(20261122), np.random.RandomState(7), np.random.default_rng([1, 2])
names = os.listdir("data")


class Noise(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.full((1,), float(os.urandom(1)[0]))


model = torch.nn.Linear(1, 1)
for batch in DataLoader(Noise(), num_workers=2):
    model(batch / 255).sum().backward()
print(names)
"""

# Every generator here is made without a seed, in the main process and in the workers.
UNSEEDED = """\
import random, sys
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


class Drawn(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        np.random.RandomState(index + 100)
        return np.random.default_rng().random() + np.random.RandomState().rand() + random.Random().random()


if __name__ == "__main__":
    kept = np.random.default_rng()
    model = torch.nn.Linear(1, 1)
    entropy = np.random.SeedSequence().entropy
    seen = [kept.random(), entropy % 1000 + 0.5, np.random.Generator(np.random.PCG64()).random()]
    for epoch in range(int(sys.argv[2])):
        for batch in DataLoader(Drawn(), batch_size=2, num_workers=2, multiprocessing_context=sys.argv[1]):
            seen += batch.tolist()
            model(batch.float()[:, None]).sum().backward()
    assert len(set(seen)) == len(seen), seen
"""


def run(reprobox: Reprobox, project: Path, *command: str, seed: int = 42) -> dict[str, Any]:
    arguments = ["run", "--json", "--engine", "local", "--seed", str(seed), "--", "python", *command]
    return reprobox(*arguments, folder=project).data


def findings(report: dict[str, Any], table: str = "entropy") -> list[tuple[str, str, int]]:
    rows = read_manifest(Path(report["manifest"])).determinism[table]
    return [(row["where"], row["what"], row["count"]) for row in rows]


def test_the_vision_template_raises_no_alarm(reprobox: Reprobox, project: Path) -> None:
    report = run(reprobox, project, "train.py", "--epochs", "1")
    assert findings(report) == []
    assert not [text for text in report["warnings"] if "outside world" in text]


def test_draws_on_the_outside_world_reach_the_manifest_and_the_screen(reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "train.py").write_text(NOISY)
    (tiny / "data").mkdir()
    for name in "ab":
        (tiny / "data" / name).write_text(name)
    report = run(reprobox, tiny, "train.py")
    found = findings(report)
    assert found == [
        ("train.py:10", "the time as seed of a NumPy generator", 1),
        ("train.py:11", "the time as seed of a NumPy generator", 1),
        ("train.py:12", "the time as seed of a NumPy generator", 1),
        ("train.py:13", "the time as seed of a NumPy generator", 1),
        ("train.py:23", "os.urandom", 4),
        ("train.py:6", "torch.seed()", 1),
        ("train.py:7", "numpy.random.seed()", 1),
        ("train.py:8", "the time as seed of torch.random.manual_seed", 1),
        ("train.py:9", "the time as seed of numpy.random.seed", 1),
    ]
    # NumPy's RandomState makes a generator without a seed before it takes the one that it is given.
    assert [where for where, _, _ in findings(report, "derived_seeds") if where.startswith("train.py")] == []
    assert "train.py:23 draws on the outside world: os.urandom (4 times); a replay may differ" in report["warnings"]


# Spawned workers import torch anew, which takes seconds.
@pytest.mark.parametrize(("method", "epochs", "seeds"), [("fork", 2, (42, 42, 43)), ("spawn", 1, (42, 42))])
def test_unseeded_generators_repeat_and_no_two_streams_are_equal(
    method: str, epochs: int, seeds: tuple[int, ...], reprobox: Reprobox, tiny: Path
) -> None:
    (tiny / "train.py").write_text(UNSEEDED)
    reports = [run(reprobox, tiny, "train.py", method, str(epochs), seed=seed) for seed in seeds]
    losses = [(Path(report["run_dir"]) / "losses.tsv").read_text() for report in reports]
    assert losses[0] == losses[1]
    assert losses[0] not in losses[2:]
    assert findings(reports[0]) == []
    derived = findings(reports[0], "derived_seeds")
    assert ("train.py:13", "random.Random()", 8 * epochs) in derived
    assert ("train.py:13", "unseeded NumPy generator", 2 * 8 * epochs) in derived

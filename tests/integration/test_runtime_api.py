"""The explicit API with torch, inside a run and outside of one, and every example of docs/api.md."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox

pytestmark = pytest.mark.network

API = Path(__file__).parents[2] / "docs" / "api.md"

# Runs the checks beside it as outside of a run: the same packages and the same API, but the runtime does not start.
OUTSIDE = """\
import os, pathlib, subprocess, sys
import reprobox
path = [str(pathlib.Path(reprobox.__file__).parents[1]), *sys.path]
env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
sys.exit(subprocess.run([sys.executable, "-S", "checks.py"], env=env).returncode)
"""

CHECKS = """
    import os, random, sys
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset
    from reprobox.runtime import *
    from reprobox.runtime import current

    class Seeds(Dataset):
        # What each worker was seeded with, and that its three generators agree with that.
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return str(torch.initial_seed()), random.random(), np.random.rand(), torch.rand(()).item()

    def seed_of(batch):
        return int(batch[0][0])

    assert (current.run is None) == bool(sys.flags.no_site)
    METHOD = {"multiprocessing_context": "fork"}

    # Workers start with 42, 43, 44, 45, and differently in the next epoch and in the next loader.
    for _ in range(2):
        set_random_seed(42)
        loader = create_reproducible_dataloader(Seeds(), 1, False, 4, **METHOD)
        assert isinstance(loader, DataLoader)
        first = list(loader)
        assert sorted({seed_of(batch) for batch in first}) == [42, 43, 44, 45]
        again = list(loader)
        other = list(create_reproducible_dataloader(Seeds(), 1, False, 4, **METHOD))
        streams = {seed_of(batch) for batch in first + again + other}
        assert len(streams) == 12, streams
        for column in (1, 2, 3):
            assert len({float(batch[column]) for batch in first + again + other}) == 24
        assert float(first[0][1]) == random.Random(42).random()

    # The order is the same each time and another in each epoch; a generator of one's own stays.
    def orders(**options):
        set_random_seed(7)
        loader = create_reproducible_dataloader(range(16), batch_size=4, shuffle=True, **options)
        return [torch.cat(list(loader)).tolist() for _ in range(2)]

    assert orders() == orders() and orders()[0] != orders()[1]
    assert orders() == orders(num_workers=2)
    own = create_seeded_generator(5)
    loader = create_reproducible_dataloader(range(16), shuffle=True, generator=own)
    assert loader.generator is own and own.initial_seed() == 5
    assert orders(seed=1) != orders(seed=2)

    # A user's worker_init_fn runs after ours.
    def mine(worker):
        torch.manual_seed(1000 + worker)

    loader = create_reproducible_dataloader(Seeds(), num_workers=2, worker_init_fn=mine, **METHOD)
    assert {seed_of(batch) for batch in loader} == {1000, 1001}

    # seed_worker for loaders of one's own: three generators in step, another stream in each worker and epoch.
    own = create_seeded_generator(3)
    loader = DataLoader(Seeds(), num_workers=2, worker_init_fn=seed_worker, generator=own, **METHOD)
    batches = list(loader) + list(loader)
    assert len({seed_of(batch) for batch in batches}) == 4
    by_seed = {seed_of(batch): batch for batch in reversed(batches)}
    for seed, batch in by_seed.items():
        assert float(batch[1]) == random.Random(seed).random()
    set_random_seed(42)
    found = []
    for worker in range(3):
        seed_worker(worker)
        found.append(torch.initial_seed())
    assert found == [42, 43, 44]

    # Determinism: all switches, not cuDNN's alone, and no filling of memory.
    set_random_seed(42, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark and not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_random_seed(42)
    assert torch.are_deterministic_algorithms_enabled() == (current.run is not None), "a run's wish stays"

    # Verification of tensors, in place changes included.
    kept = torch.zeros(3)

    def counting():
        kept.add_(1)
        return [kept]

    found = verify_reproducibility(counting)
    assert (found.run, found.index) == (1, (0, 0)), found
    assert verify_reproducibility(lambda: {"w": torch.randn(5).bfloat16(), "a": np.random.rand(3), "n": np.float32(1)})
    bits = iter([0, 0x7FC00001])
    nan = lambda: torch.tensor([1, next(bits)], dtype=torch.int32).view(torch.float32)
    assert verify_reproducibility(nan, runs=2).index == (1,)

    def loaded():
        loader = DataLoader(range(8), shuffle=True, generator=create_seeded_generator(1))
        mine = create_reproducible_dataloader(range(8), shuffle=True)
        return [torch.cat(list(each)) for each in (loader, mine)]

    assert verify_reproducibility(loaded)
    """

METRICS = """
    import torch
    from reprobox.runtime import log

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log(early=1)
    for step in range(3):
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        optimizer.step()
        log(accuracy=0.5 + step / 10, **{"test/loss": loss.detach() * 0 + 0.1})
    """

EPOCHS = """
    import sys
    import torch
    from torch.utils.data import DataLoader

    model = torch.nn.Linear(1, 1)
    train, test = DataLoader([torch.ones(1)]), DataLoader([torch.ones(1)])
    for epoch in range(int(sys.argv[1])):
        for batch in train:
            model(batch).sum().backward()
        for _ in range(3):
            with torch.no_grad():
                list(test)
    """


def run(reprobox: Reprobox, project: Path, *command: str, **files: str) -> dict[str, Any]:
    for name, text in files.items():
        (project / f"{name}.py").write_text(textwrap.dedent(text))
    return reprobox("run", "--json", "--engine", "local", *command, folder=project).data


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_the_api_keeps_its_promises(where: str, reprobox: Reprobox, tiny: Path) -> None:
    script = CHECKS if where == "inside" else OUTSIDE
    assert run(reprobox, tiny, train=script, checks=CHECKS)["status"] == "completed"


def test_the_examples_of_the_documentation_run_and_their_metrics_arrive(reprobox: Reprobox, tiny: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", API.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(examples) == 8
    report = run(reprobox, tiny, train="\n\n".join(examples))
    assert report["metrics"] == {"accuracy": "0.91", "test/loss": "0.25"}


def test_metrics_stand_in_the_manifest_by_name_with_their_last_value(reprobox: Reprobox, tiny: Path) -> None:
    report = run(reprobox, tiny, train=METRICS)
    assert read_manifest(Path(report["manifest"])).result.metrics == {
        "accuracy": "0.7",
        "early": "1.0",
        "test/loss": "0.1",
    }
    assert report["steps"] == 3
    replay = reprobox("replay", report["manifest"], "--engine", "local", "--json", folder=tiny).data
    assert replay["verdict"] == "EXACT"


def test_many_epochs_in_fast_mode_draw_a_warning(reprobox: Reprobox, tiny: Path) -> None:
    def warned(*options: str, epochs: int) -> bool:
        command = [*options, "--", "python", "train.py", str(epochs)]
        return any("more than 5 epochs" in text for text in run(reprobox, tiny, *command, train=EPOCHS)["warnings"])

    assert not warned(epochs=6)  # the project asks for deterministic algorithms
    (tiny / "reprobox.yaml").write_text("name: tiny\ndeterministic: false\n")
    assert not warned(epochs=5)
    assert warned(epochs=6)

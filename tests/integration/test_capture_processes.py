"""Trainings of several processes: a stream a rank, under the same number in every run, and nothing recorded twice."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Training

pytestmark = pytest.mark.network

RANKS = """
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
def train(rank):
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mine = features[rank::2], targets[rank::2]
    for step in range(3):
        optimizer.zero_grad()
        loss = ((model(mine[0]) - mine[1]) ** 2).mean()
        loss.backward()
        optimizer.step()
        with open(f"rank-{rank}", "a") as file:
            file.write(struct.pack(">f", loss.item()).hex() + " ")
"""


def test_torchrun_gives_a_trajectory_for_each_rank(training: Training) -> None:
    training.run(
        RANKS
        + """
if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(dist.get_rank())
    dist.destroy_process_group()
""",
        launch=("-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d"),
        attempts=4,
    )
    check(training)


def test_mp_spawn_gives_a_trajectory_for_each_rank(training: Training) -> None:
    code = (
        RANKS
        + """
def work(rank, store):
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    train(rank)
    dist.destroy_process_group()
if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (os.path.abspath("store"),), nprocs=2)
"""
    )
    training.run(code, attempts=4)
    check(training)


def check(training: Training) -> None:
    here = max(training.folder.iterdir(), key=lambda path: path.stat().st_mtime)
    assert [stream.process for stream in training.streams] == [0, 1]
    for rank, stream in enumerate(training.streams):
        assert [loss.bits for loss in stream.losses] == (here / f"rank-{rank}").read_text().split()
        assert (stream.optimizer_steps, stream.complete) == (3, True)
    weights = {stream.weights for stream in training.streams}
    assert len(weights) == 1
    assert None not in weights
    assert training.warnings == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_have_streams_of_their_own_and_repeat_nothing_of_their_parent(training: Training, method: str) -> None:
    training.run(
        f"""
import multiprocessing, sys
def child(number):
    once(number + 10)
def once(factor):
    model = torch.nn.Linear(4, 1, bias=False)
    model.weight.data.fill_(factor)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    seen(loss)
    sys.stdout.flush()
if __name__ == "__main__":
    torch.set_num_threads(1)
    if "{method}" != "fork":  # a forked child cannot use the autograd engine that its parent has started
        once(1)
    context = multiprocessing.get_context("{method}")
    for number in range(2):
        process = context.Process(target=child, args=(number,))
        process.start()
        process.join()
        assert process.exitcode == 0
"""
    )
    assert training.bits == training.seen
    assert [len(stream.losses) for stream in training.streams] == [1] * (2 if method == "fork" else 3)
    assert all(stream.complete for stream in training.streams)


def test_a_program_that_leaves_by_os_exit_has_its_record_finished(training: Training) -> None:
    training.run(
        """
import os, sys
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(30):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    seen(loss)
sys.stdout.flush()
os._exit(0)
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.complete
    assert stream.weights is not None
    assert len(training.facts) == 1


def test_a_forked_child_reports_nothing_of_its_parents(training: Training) -> None:
    training.run(
        """
import os
import reprobox.runtime.current as current
model = torch.nn.Linear(4, 1)
loss_of(model).backward()
current.run.recorder.warn("said by the parent")
for leave in (lambda: os._exit(0), lambda: None):
    child = os.fork()
    if child == 0:
        leave()
        break
    os.waitpid(child, 0)
"""
    )
    assert training.warnings == ["said by the parent"]
    assert len(training.streams) == 1


def test_loader_workers_write_no_streams_and_no_facts(training: Training) -> None:
    training.run(
        """
from torch.utils.data import DataLoader, TensorDataset
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for inputs, wanted in DataLoader(TensorDataset(features, targets), batch_size=4, num_workers=2):
    loss = ((model(inputs) - wanted) ** 2).mean()
    loss.backward()
    optimizer.step()
"""
    )
    assert (len(training.streams), len(training.facts)) == (1, 1)
    assert training.facts[0]["data_loaders"][0]["workers"] == 2

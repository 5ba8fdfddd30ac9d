"""Which events are one training, and in which order they may come: pools, an optimizer a parameter, threads."""

from __future__ import annotations

import pytest

from reprobox.trajectory.comparison import compare
from reprobox.trajectory.model import Outcome, Trajectory, Verdict
from reprobox.trajectory.trainings import trainings_of
from tests.integration.conftest import Training

pytestmark = pytest.mark.network


def verdict_on(recorded: tuple[Trajectory, ...], replayed: tuple[Trajectory, ...]) -> Verdict:
    verdict = compare(recorded, replayed)
    assert verdict is not None
    return verdict


# Each job waits as long as its turn in SLOW says, so that another process takes the next one.
POOL = """
import os, sys, time
slow = os.environ["SLOW"]
def job(number):
    time.sleep(float(slow[number]) / 4)
    if SEEDED:
        torch.manual_seed(number)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(net, 1.0 + number)
        loss.backward()
        optimizer.step()
    return loss.item()
if __name__ == "__main__":
    START
"""
STARTS = {
    "Pool": """
    import multiprocessing
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(job, range(6), chunksize=1))
""",
    "executor": """
    import concurrent.futures, multiprocessing
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        print(list(pool.map(job, range(6))))
""",
}


def pool(training: Training, start: str, slow: str, seeded: bool = True) -> tuple[Trajectory, ...]:
    code = POOL.replace("START", STARTS[start].strip()).replace("SEEDED", str(seeded))
    training.run(code, env={"SLOW": slow}, digest_every=2)
    return training.streams


@pytest.mark.parametrize("start", ["Pool", "executor"])
def test_jobs_that_other_processes_of_a_pool_take_are_the_same_trainings(training: Training, start: str) -> None:
    recorded = pool(training, start, "900000")
    replayed = pool(training, start, "090000")
    for streams in (recorded, replayed):
        assert [one.role for one in streams] == ["child", "child"]
        assert sum(len(trainings_of(one)) for one in streams) == 6
        assert all(training.complete for one in streams for training in trainings_of(one))
    # The first job kept its process from all others: the other one took the rest.
    assert [len(trainings_of(one)) for one in recorded] != [len(trainings_of(one)) for one in replayed] or start
    verdict = verdict_on(recorded, replayed)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.steps_compared == 18
    assert "6 of" not in verdict.reason
    assert "trainings ran in another process, or after others, than before" in verdict.reason
    assert "of the final state" in verdict.reason
    fewer = replayed[0].losses.part(0, 2)
    assert verdict_on(recorded, (Trajectory(losses=fewer, role="child"), replayed[1])).outcome is Outcome.DIVERGED


def test_jobs_that_draw_on_what_an_earlier_one_left_diverge_and_are_told_why(training: Training) -> None:
    recorded = pool(training, "Pool", "900000", seeded=False)
    verdict = verdict_on(recorded, pool(training, "Pool", "992222", seeded=False))
    assert verdict.outcome is Outcome.DIVERGED
    assert "let each set its own seed" in verdict.reason


# As Pyro's SVI does it: an optimizer for each parameter, which step in the order of a set of tensors.
SET_OF_TENSORS = """
import random
random.seed(ORDER)
model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(4)], torch.nn.Linear(4, 1))
optimizers = {}
for step in range(7):
    loss = loss_of(model)
    loss.backward()
    parameters = list(model.parameters())
    random.shuffle(parameters)
    for parameter in parameters:
        if parameter not in optimizers:
            optimizers[parameter] = torch.optim.Adam([parameter], lr=0.01)
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()
"""


def test_optimizers_of_single_parameters_may_step_in_any_order(training: Training) -> None:
    training.run(SET_OF_TENSORS.replace("ORDER", "1"), digest_every=3)
    recorded = training.streams
    training.run(SET_OF_TENSORS.replace("ORDER", "2"), digest_every=3)
    assert [one.kind for one in recorded[0].optimizers] == ["Adam"] * 10
    assert recorded[0].digests != training.streams[0].digests
    verdict = verdict_on(recorded, training.streams)
    assert verdict.outcome is Outcome.EXACT
    assert verdict.reason == (
        "all 7 losses, 70 digests, 10 tensors of the final state and the final weights are equal to the bit"
    )


def test_folds_in_one_process_are_trainings_of_their_own_and_a_second_phase_is_none(training: Training) -> None:
    training.run(
        """
def fit(model, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
for fold in range(2):
    model = torch.nn.Linear(4, 1)
    fit(model, 0.1)
    fit(model, 0.01)
"""
    )
    (stream,) = training.streams
    assert [one.training for one in stream.optimizers] == [0, 0, 2, 2]
    assert [(one.first_step, one.last_step) for one in stream.optimizers] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert stream.role == "root"
    names = [one.name for one in stream.tensors if one.what == "initial"]
    assert names == ["Linear.weight", "Linear.bias", "Linear#2.weight", "Linear#2.bias"]


def test_threads_that_train_at_once_are_said_and_one_after_the_other_are_not(training: Training) -> None:
    code = """
import threading
def train(*turns):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        for turn in turns:
            turn.wait()
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
"""
    training.run(
        code + "for _ in range(2):\n    one = threading.Thread(target=train)\n    one.start()\n    one.join()\n"
    )
    assert training.warnings == []
    both = "turns = threading.Barrier(2)\nboth = [threading.Thread(target=train, args=[turns]) for _ in range(2)]\n"
    training.run(code + both + "for one in both: one.start()\nfor one in both: one.join()\n")
    (warning,) = training.warnings
    assert "several threads of one process train at the same time" in warning


def test_batches_that_are_objects_are_digested_by_the_tensors_in_them(training: Training) -> None:
    code = """
import dataclasses
class Graph:
    def __init__(self, x):
        self.x, self.made, self._store = x, id(self), {"y": x * 2}
    def detach(self):
        return self
class Opaque:
    __slots__ = ()
@dataclasses.dataclass
class Pair:
    graph: Graph
    scale: float
    other: object
data = [Pair(Graph(row), 0.5, Opaque()) for row in features * FACTOR]
loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=lambda pairs: pairs)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for batch in loader:
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
"""
    training.run(code.replace("FACTOR", "1"), digest_every=1)
    recorded, warnings = training.streams, training.warnings
    training.run("padding = [object() for _ in range(12345)]\n" + code.replace("FACTOR", "1"), digest_every=1)
    assert verdict_on(recorded, training.streams).outcome is Outcome.EXACT
    assert warnings == ["batches of data loader 0 hold what is not digested: 2 of type Opaque"]
    training.run(code.replace("FACTOR", "2"), digest_every=1)
    verdict = verdict_on(recorded, training.streams)
    assert verdict.reason == "the batches differ before optimizer step 0 (the first one); the initial weights agree"


def test_a_program_that_makes_an_optimizer_a_task_is_recorded_to_its_end(training: Training) -> None:
    training.run(
        """
from reprobox.runtime import protocol, witness
protocol.MAX_OPTIMIZERS, witness._MOST_TENSORS = 4, 5
import copy
model = torch.nn.Linear(4, 1)
for task in range(7):
    fast = copy.deepcopy(model)
    inner = torch.optim.SGD(fast.parameters(), lr=0.1)
    for step in range(2):
        inner.zero_grad()
        loss_of(fast, 1.0 + task).backward()
        inner.step()
"""
    )
    (stream,) = training.streams
    assert stream.damage is None and stream.complete
    assert len(stream.losses) == stream.optimizer_steps == 14
    assert [(one.kind, one.steps) for one in stream.optimizers] == [*[("SGD", 2)] * 3, ("(others)", 8)]
    assert stream.weights is None
    assert stream.missing["final"] == "more than 3 optimizers"
    assert stream.missing["gradient"] == "more than 5 tensors"
    assert verdict_on(training.streams, training.streams).outcome is Outcome.EXACT


def test_parameters_that_are_put_in_place_of_others_are_digested(training: Training) -> None:
    """As Gaussian splatting does, and whoever resizes a vocabulary."""
    code = """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(6):
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()
    if step == 2:
        model.weight = torch.nn.Parameter(model.weight.detach().clone())
        optimizer.param_groups[0]["params"][0] = model.weight
with torch.no_grad():
    model.weight += ADDED
"""
    training.run(code.replace("ADDED", "0"), digest_every=2)
    recorded = training.streams
    training.run(code.replace("ADDED", "1"), digest_every=2)
    verdict = verdict_on(recorded, training.streams)
    assert verdict.first_divergence is not None
    assert verdict.first_divergence.what == "state"
    assert recorded[0].weights != training.streams[0].weights


def test_what_is_trained_by_hand_has_a_state_too(training: Training) -> None:
    training.run(
        """
model = torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.BatchNorm1d(1))
for step in range(3):
    loss_of(model).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
            parameter.grad = None
"""
    )
    names = [one.name for one in training.streams[0].tensors if one.what == "state"]
    assert "Sequential.1.running_mean" in names
    assert [one.kind for one in training.streams[0].optimizers] == ["-"]

"""Losses are a weak witness: what they do not show, the digests of gradients, weights and random states do."""

from __future__ import annotations

import pytest

from reprobox.trajectory.comparison import compare
from reprobox.trajectory.live import LiveComparison
from reprobox.trajectory.model import Outcome
from tests.integration.conftest import Training

pytestmark = pytest.mark.network

# The weight of an input that is tiny next to the others: one ULP of it is lost when the products are added up.
PLANTED = """
features[:, 3] = 1e-12
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(12):
    if step == 3:
        with torch.no_grad():
            model.weight.view(torch.int32)[0, 3] += ULPS
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("every", "found_at"), [(1, 3), (5, 4)])
def test_one_ulp_in_one_weight_is_caught_while_the_losses_are_still_equal(
    training: Training, every: int, found_at: int
) -> None:
    training.run(PLANTED.replace("ULPS", "0"), digest_every=every)
    recorded = training.streams
    training.run(PLANTED.replace("ULPS", "1"), digest_every=every)
    replayed = training.streams
    assert [loss.bits for loss in recorded[0].losses[:8]] == [loss.bits for loss in replayed[0].losses[:8]]
    verdict = compare(recorded, replayed)
    place = verdict.first_divergence
    assert verdict.outcome is Outcome.DIVERGED
    assert place is not None
    assert (place.what, place.step, place.optimizer_step) == ("weights", found_at, found_at)
    assert LiveComparison(recorded).look(replayed[0]) == place


def test_a_random_number_drawn_in_between_is_caught_though_nothing_depends_on_it(training: Training) -> None:
    code = """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(4):
    if step == 2:
        torch.rand(DRAWN)
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
"""
    training.run(code.replace("DRAWN", "0"), digest_every=1)
    recorded = training.streams
    training.run(code.replace("DRAWN", "1"), digest_every=1)
    place = compare(recorded, training.streams).first_divergence
    assert place is not None
    assert (place.what, place.optimizer_step) == ("rng", 2)


def test_gradients_of_the_first_step_are_digested_as_they_are(training: Training) -> None:
    code = """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
loss_of(model).backward()
model.weight.grad.view(torch.int32)[0, 0] += ULPS
optimizer.step()
"""
    training.run(code.replace("ULPS", "0"))
    recorded = training.streams
    training.run(code.replace("ULPS", "1"))
    place = compare(recorded, training.streams).first_divergence
    assert place is not None
    assert (place.what, place.name, place.optimizer_step) == ("gradient", "Linear.weight", 0)


def test_the_digest_depends_on_every_bit_and_every_place(training: Training) -> None:
    training.run(
        """
import sys
from reprobox.runtime.digests import CHUNK, CPU_CHUNK, Digester, combined
digester = Digester(torch)
def digest(*tensors):
    return combined(digester.of(tensors))
big = torch.randn(3 * CPU_CHUNK + 5)
values = [torch.randn(300, 70), torch.randn(5, dtype=torch.float64), torch.randn(9).bfloat16(), torch.randn(7).half(),
    torch.randn(3, dtype=torch.complex64), torch.tensor([True, False]), torch.randn(()), torch.empty(0), big]
whole = digest(*values)
assert digest(*values) == whole
doubles = torch.randn(9, dtype=torch.float64)
before = digest(doubles)
doubles[2:7:4] *= -1  # two changed signs
assert digest(doubles) != before
for value in values[:6] + [big]:
    for place in (0, -1):
        flat = value.view(-1).view(torch.uint8)
        flat[place] ^= 1
        assert digest(*values) != whole
        flat[place] ^= 1
assert digest(*values) == whole
assert digest(values[0], values[1]) != digest(values[1], values[0])
assert digest(values[0], None) != digest(None, values[0])
assert digest(big.flip(0)) != digest(big)
assert digest(torch.tensor([1.0, 2.0])) != digest(torch.tensor([2.0, 1.0]))
assert digest(big[::2]) == digest(big[::2].clone()) and digest(big.view(1, -1)) != digest(big)
assert digest(torch.zeros(4)) != digest(torch.zeros(4, dtype=torch.int32))
edges = torch.tensor([[0, 1], [1, 0]])
def sparse(edges):
    return torch.sparse_coo_tensor(edges, torch.ones(2), (2, 2), is_coalesced=True)
assert digest(sparse(edges)) == digest(sparse(edges.clone())) != digest(sparse(edges.flip(1)))
assert digest(sparse(edges).to_sparse_csr()) != digest(sparse(torch.tensor([[0, 1], [0, 1]])).to_sparse_csr())
turned = torch.tensor([1 + 2j])
assert digest(turned.conj()) == digest(turned.conj().resolve_conj()) != digest(turned)
assert digest() == digest() and len(whole) == 16
"""
    )


def test_a_batch_that_differs_is_named_before_the_loss_that_it_leads_to(training: Training) -> None:
    code = """
from torch.utils.data import DataLoader, TensorDataset
features[:, 3] = 0
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(2):
    if epoch == 1:
        features[5, 2] += CHANGE
    for inputs, wanted in DataLoader(TensorDataset(features, targets), batch_size=2, num_workers=WORKERS):
        optimizer.zero_grad()
        loss = ((model(inputs) - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
"""
    training.run(code.replace("CHANGE", "0").replace("WORKERS", "0"), digest_every=1)
    recorded = training.streams
    assert [(one.optimizer_step, one.optimizer) for one in recorded[0].digests if one.what == "batch"] == [
        *((step, 0) for step in range(4)),
        *((step, 1) for step in range(4, 8)),
    ]
    training.run(code.replace("CHANGE", "0").replace("WORKERS", "2"), digest_every=1)
    assert compare(recorded, training.streams).outcome is Outcome.EXACT
    training.run(code.replace("CHANGE", "0.1").replace("WORKERS", "0"), digest_every=1)
    verdict = compare(recorded, training.streams)
    place = verdict.first_divergence
    assert place is not None
    assert (place.what, place.step, place.optimizer_step) == ("batch", 6, 6)


def test_batches_of_any_make_are_digested_and_large_ones_in_part(training: Training) -> None:
    training.run(
        """
import numpy
from reprobox.runtime.batch_digests import MOST_ELEMENTS, tensors_of
from reprobox.runtime.digests import Digester, combined
digester = Digester(torch)
def digest(batch):
    return combined(digester.of(tensors_of(torch, batch)[0]))
def batch(number=1.5, path="a", last=0.0, deep=1):
    large = torch.zeros(3 * MOST_ELEMENTS)
    large[-3] = last
    return {"x": [torch.ones(2), (numpy.arange(3), numpy.float32(2.5))], "y": number, "path": path, "large": large,
        "z": [[[[deep]]]]}
assert digest(batch()) == digest(batch())
assert digest(batch(path="b")) == digest(batch())
assert len({digest(one) for one in (batch(), batch(number=2), batch(last=1.0), batch(deep=2), [], [1])}) == 6
assert sum(tensor.numel() for tensor in tensors_of(torch, batch())[0]) < 1.01 * MOST_ELEMENTS
"""
    )


def test_a_program_that_only_reads_data_leaves_no_record(training: Training) -> None:
    training.run(
        """
from torch.utils.data import DataLoader
print(len(list(DataLoader(features, num_workers=1))))
"""
    )
    assert training.streams == ()

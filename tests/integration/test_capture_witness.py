"""Losses are a weak witness: what they do not show, the digests of gradients, weights and random states do."""

from __future__ import annotations

import pytest

from reprobox.trajectory.comparison import LiveComparison, compare
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
    live = LiveComparison(recorded)
    assert live.feed(0, replayed[0].losses, replayed[0].digests) == place


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
    assert (place.what, place.optimizer_step) == ("gradients", 0)


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
assert digest(big[::2]) == digest(big[::2].clone()) and digest(big.view(1, -1)) == digest(big)
assert digest() == digest() and len(whole) == 16
"""
    )

"""Every way to write a training loop in plain torch is recorded to the bit, without a changed line.

Each program prints the bits of the losses that it saw itself; the record must hold the same.
"""

from __future__ import annotations

import struct

import pytest

from tests.integration.conftest import Training

pytestmark = pytest.mark.network

LINEAR = """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def test_a_plain_loop_is_recorded_with_losses_steps_digests_and_final_weights(training: Training) -> None:
    training.run(
        LINEAR
        + """
for _ in range(3):
    loss = loss_of(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    seen(loss)
    loss.detach().zero_()   # the bits were copied at the hook: what happens to the loss later does no harm
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert [loss.optimizer_step for loss in stream.losses] == [0, 1, 2]
    assert (stream.optimizer_steps, stream.skipped_steps, stream.complete) == (3, 0, True)
    assert stream.weights is not None
    assert [(one.optimizer_step, one.what) for one in stream.digests] == [(0, "gradients"), (0, "weights"), (0, "rng")]
    assert training.warnings == []


def test_gradient_accumulation_is_recorded_loss_by_loss(training: Training) -> None:
    training.run(
        LINEAR
        + """
for step in range(6):
    loss = loss_of(model, step) / 3
    loss.backward()
    seen(loss)
    if step % 3 == 2:
        optimizer.step()
        optimizer.zero_grad()
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert [loss.optimizer_step for loss in stream.losses] == [0, 0, 0, 1, 1, 1]
    assert stream.optimizer_steps == 2


def test_a_kept_loss_that_is_changed_in_place_keeps_its_bits(training: Training) -> None:
    training.run(
        LINEAR
        + """
running = None
for _ in range(3):
    loss = loss_of(model)
    optimizer.zero_grad()
    loss.backward()
    seen(loss)
    if running is None:
        running = loss.detach()
    else:
        running += loss.detach()
    optimizer.step()
"""
    )
    assert training.bits == training.seen


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_amp_records_the_scale_and_the_steps_that_the_scaler_skipped(training: Training, fused: bool) -> None:
    training.run(
        f"""
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused={fused})
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
for step in range(5):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model).float()
    scaled = scaler.scale(loss * float("inf") if step == 3 else loss)
    scaled.backward()
    seen(scaled)
    scaler.step(optimizer)
    scaler.update()
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert [loss.scale for loss in stream.losses] == ["1024", "1024", "2048", "2048", "1024"]
    assert stream.losses[3].bits == "7f800000"
    assert stream.skipped_steps == 1
    assert stream.optimizer_steps == (5 if fused else 4)


def test_bf16_autocast_and_a_loss_in_bf16_are_recorded_in_their_dtypes(training: Training) -> None:
    training.run(
        LINEAR
        + """
for step in range(4):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(features)
        loss = (outputs - targets.bfloat16()).square().mean() if step % 2 else loss_of(model)
    loss.backward()
    print("seen", "%04x" % (loss.detach().view(torch.int16).item() & 0xFFFF)) if step % 2 else seen(loss)
    optimizer.step()
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert [loss.dtype for loss in stream.losses] == ["float32", "bfloat16"] * 2


def test_several_losses_and_optimizers_of_a_gan_are_recorded_in_order(training: Training) -> None:
    training.run(
        """
generator, critic = torch.nn.Linear(2, 4), torch.nn.Linear(4, 1)
first = torch.optim.Adam(generator.parameters(), lr=1e-3)
second = torch.optim.Adam(critic.parameters(), lr=1e-3)
for _ in range(3):
    fake = generator(torch.randn(8, 2))
    second.zero_grad()
    judged = critic(fake.detach()).mean() - critic(features).mean()
    mixed = features.clone().requires_grad_()
    # The penalty's own gradients go on into the loss, which is recorded.
    slope, = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    loss = judged + (slope.norm() - 1) ** 2
    loss.backward()
    seen(loss)
    second.step()
    first.zero_grad()
    loss = -critic(fake).mean()
    loss.backward()
    seen(loss)
    first.step()
a, b = generator(torch.randn(8, 2)).mean(), critic(features).mean()
torch.autograd.backward([a, b])
seen(a, b)
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.optimizer_steps == 6
    assert {one.optimizer for one in stream.digests} == {0, 1}
    assert training.warnings == []


def test_lbfgs_is_recorded_closure_by_closure(training: Training) -> None:
    training.run(
        """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
def closure():
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    seen(loss)
    return loss
for _ in range(2):
    optimizer.step(closure)
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert len(training.bits) > 4
    assert stream.optimizer_steps == 2


def test_a_subclass_of_optimizer_is_recorded(training: Training) -> None:
    training.run(
        """
class SignDescent(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.01})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["lr"] * parameter.grad.sign()
model = torch.nn.Linear(4, 1)
optimizer = SignDescent(model.parameters())
for _ in range(3):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    seen(loss)
    optimizer.step()
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.optimizer_steps == 3
    assert stream.weights is not None


def test_optimizers_inside_backward_are_recorded(training: Training) -> None:
    training.run(
        """
model = torch.nn.Linear(4, 1)
optimizers = {each: torch.optim.SGD([each], lr=0.1) for each in model.parameters()}
def update(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()
for parameter in model.parameters():
    parameter.register_post_accumulate_grad_hook(update)
for _ in range(3):
    loss = loss_of(model)
    loss.backward()
    seen(loss)
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.optimizer_steps == 6
    assert sum(one.what == "gradients" for one in stream.digests) == 2
    assert training.warnings == []


def test_activation_checkpointing_is_no_second_loss(training: Training) -> None:
    training.run(
        """
from torch.utils.checkpoint import checkpoint
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for reentrant in (True, False):
    hidden = features.clone().requires_grad_()
    loss = ((checkpoint(model, hidden, use_reentrant=reentrant) - targets) ** 2).mean()
    loss.backward()
    seen(loss)
    optimizer.step()
"""
    )
    assert training.bits == training.seen


@pytest.mark.parametrize("inputs", ["weights", "(weight for weight in weights)", "inputs=iter(weights)"])
def test_autograd_grad_is_recorded_when_it_is_the_training(training: Training, inputs: str) -> None:
    training.run(
        f"""
weights = [torch.nn.Parameter(torch.randn(1, 4)), torch.nn.Parameter(torch.zeros(1))]
for _ in range(3):
    loss = ((features @ weights[0].T + weights[1] - targets) ** 2).mean()
    gradients = torch.autograd.grad(loss, {inputs})
    seen(loss)
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients):
            weight -= 0.1 * gradient
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert {loss.event for loss in stream.losses} == {"grad"}


def test_a_complex_root_is_recorded_as_the_sum_of_its_parts_and_says_nothing(training: Training) -> None:
    done = training.run(
        """
weight = torch.tensor([1 + 2j, 3 - 1j], requires_grad=True)
for root in (weight * 2, (weight * 2).sum()):
    root.backward(gradient=torch.ones_like(root))
loss_of(torch.nn.Linear(4, 1)).backward()
"""
    )
    (stream,) = training.streams
    assert [(loss.dtype, loss.bits) for loss in stream.losses[:2]] == [("float64", struct.pack(">d", 10.0).hex())] * 2
    assert len(stream.losses) == 3
    assert (training.warnings, done.stderr) == ([], "")


@pytest.mark.parametrize(
    "update",
    [
        """
    for parameter, gradient in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
        with torch.no_grad():
            parameter -= RATE * gradient
""",
        """
    model.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        parameter.data.add_(parameter.grad, alpha=-RATE)
""",
    ],
    ids=["without gradients kept", "through data"],
)
def test_a_module_trained_by_hand_has_its_final_weights_digested(training: Training, update: str) -> None:
    code = f"""
model = torch.nn.Linear(4, 1)
frozen = torch.nn.Linear(4, 1)
for _ in range(3):
    loss = loss_of(model)
    seen(loss){update}"""
    training.run(code.replace("RATE", "0.1"))
    first = training.streams[0].weights
    training.run(code.replace("RATE", "0.2"))
    assert training.bits == training.seen
    assert first is not None
    assert training.streams[0].weights not in (None, first)


def test_torch_func_is_recorded_whether_the_value_is_returned_or_not(training: Training) -> None:
    training.run(
        """
model = torch.nn.Linear(4, 1)
weights = {name: value.detach() for name, value in model.named_parameters()}
def loss_fn(weights):
    return ((torch.func.functional_call(model, weights, (features,)) - targets) ** 2).mean()
for step in range(4):
    seen(loss_fn(weights))
    if step % 2:
        gradients, _ = torch.func.grad_and_value(loss_fn)(weights)
    else:
        gradients = torch.func.grad(loss_fn)(weights)
    weights = {name: value - 0.1 * gradients[name] for name, value in weights.items()}
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert {loss.event for loss in stream.losses} == {"func"}


def test_per_sample_gradients_by_vmap_are_recorded_as_the_sum_of_their_losses(training: Training) -> None:
    training.run(
        """
weights = torch.randn(4)
def loss_fn(weights, row, target):
    return ((row @ weights - target) ** 2).sum()
torch.func.vmap(torch.func.grad(loss_fn), in_dims=(None, 0, 0))(weights, features, targets)
losses = torch.func.vmap(loss_fn, in_dims=(None, 0, 0))(weights, features, targets)
print("seen", struct.pack(">d", losses.double().sum().item()).hex())
"""
    )
    assert training.bits == training.seen


def test_threads_that_train_at_once_lose_no_loss(training: Training) -> None:
    training.run(
        """
import threading
def train(seed):
    model = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    )
    (stream,) = training.streams
    assert (len(stream.losses), stream.optimizer_steps) == (200, 200)
    assert stream.damage is None


def test_a_generator_of_losses_and_nan_and_inf_are_passed_on_as_they_are(training: Training) -> None:
    training.run(
        LINEAR
        + """
losses = [loss_of(model) * factor for factor in (1.0, float("nan"), float("inf"), float("-inf"))]
seen(losses[0])
print("seen", "%08x" % (losses[1].detach().view(torch.int32).item() & 0xFFFFFFFF))
seen(*losses[2:])
torch.autograd.backward(iter(losses))
"""
    )
    assert training.bits == training.seen


def test_no_frame_of_ours_is_in_the_users_traceback(training: Training) -> None:
    done = training.run(
        LINEAR
        + """
from torch.utils.data import DataLoader
import random, traceback
import numpy
class Broken(list):
    def __iter__(self):
        raise ValueError
for wrong in (
    lambda: torch.manual_seed("x"),
    lambda: numpy.random.seed(-1),
    lambda: numpy.random.default_rng(-1),
    lambda: random.seed([]),
    lambda: random.Random([]),
    lambda: iter(DataLoader([1, 2], batch_size=None, sampler=Broken())),
    lambda: torch.ones(2, requires_grad=True).backward(),
    lambda: torch.autograd.grad(torch.ones(2, requires_grad=True), features),
    lambda: torch.func.grad(lambda x: 1 / 0)(features),
    lambda: DataLoader(features, batch_size=-1),
    lambda: next(iter(DataLoader([1, 2], collate_fn=lambda batch: 1 / 0))),
    lambda: torch.amp.GradScaler("cpu").step(optimizer),
):
    try:
        wrong()
    except Exception:
        traceback.print_exc()
    else:
        raise SystemExit(3)
"""
    )
    assert done.stderr.count("Traceback") >= 12
    python = training.facts[0]["software"]["python"]
    # Before 3.11 an exception that is passed on takes the frame that passes it on with it.
    assert "reprobox/runtime" not in done.stderr or python.startswith(("3.9.", "3.10."))
    assert training.warnings == []


def test_steps_without_a_loss_and_gradients_without_a_hook_are_said(training: Training) -> None:
    training.run(
        LINEAR
        + """
for _ in range(3):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
"""
    )
    (stream,) = training.streams
    assert (len(stream.losses), stream.optimizer_steps) == (0, 3)
    assert any("3 of 3 steps of optimizer 0 (SGD)" in text for text in training.warnings)
    training.run("model = torch.nn.Linear(4, 1)\nmodel.weight.grad = torch.ones(1, 4)\n")
    assert any("1 parameters have gradients, but reprobox saw neither" in text for text in training.warnings)

"""Trainings written for torch.compile, Hugging Face, Accelerate, Lightning and notebooks are recorded as they are."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Training

pytestmark = pytest.mark.network

LINEAR = """
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""


def test_a_compiled_model_is_recorded(training: Training) -> None:
    training.run(
        """
model = torch.compile(torch.nn.Linear(4, 1), backend="aot_eager")
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
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
    assert training.warnings == []


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_with_backward_inside_is_recorded(training: Training, backend: str) -> None:
    training.run(
        LINEAR
        + f"""
@torch.compile(backend="{backend}")
def step():
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    return loss
for _ in range(3):
    seen(step())
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.optimizer_steps == 3
    assert training.warnings == []


def test_a_compiled_optimizer_step_is_recorded(training: Training) -> None:
    training.run(
        LINEAR
        + """
compiled = torch.compile(lambda: optimizer.step(), backend="eager")
for _ in range(3):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    seen(loss)
    compiled()
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert stream.optimizer_steps == 3


def test_one_graph_with_the_gradients_inside_cannot_be_seen_and_is_said(training: Training) -> None:
    training.run(
        LINEAR
        + """
weights = {name: value.detach() for name, value in model.named_parameters()}
def loss_fn(weights):
    return ((torch.func.functional_call(model, weights, (features,)) - targets) ** 2).mean()
gradients = torch.compile(torch.func.grad(loss_fn), backend="eager", fullgraph=True)(weights)
print(sorted(gradients))
"""
    )
    assert training.bits == []
    assert any("part of a graph: its losses are not recorded" in text for text in training.warnings)


def test_a_backward_traced_into_a_graph_is_said(training: Training) -> None:
    training.run(
        LINEAR
        + """
if hasattr(torch._dynamo.config, "trace_autograd_ops"):
    torch._dynamo.config.trace_autograd_ops = True
@torch.compile(backend="eager")
def gradients():
    loss = loss_of(model)
    return torch.autograd.grad(loss, list(model.parameters()))
for _ in range(2):
    for parameter, gradient in zip(model.parameters(), gradients()):
        parameter.grad = gradient
    optimizer.step()
"""
    )
    if not training.bits:  # a torch that breaks the graph there lets the loss be seen
        assert any("its losses are not recorded" in text for text in training.warnings)
        assert any("2 of 2 steps of optimizer 0" in text for text in training.warnings)


TRAINER = """
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
data = [{"input_ids": torch.randint(0, 50, (8,)), "labels": torch.randint(0, 50, (8,))} for _ in range(16)]
arguments = TrainingArguments(output_dir="outputs", max_steps=4, per_device_train_batch_size=2, report_to=[],
    gradient_accumulation_steps=2, seed=7, full_determinism=True, use_cpu=True, logging_steps=1, save_strategy="no",
    disable_tqdm=True)
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2))
trainer = Trainer(model=model, args=arguments, train_dataset=data)
trainer.train()
"""


def test_a_hugging_face_trainer_with_its_own_seed_is_recorded_and_repeats(training: Training) -> None:
    training.run(TRAINER)
    (stream,) = training.streams
    assert (len(stream.losses), stream.optimizer_steps) == (8, 4)
    assert training.warnings == []
    first = (training.bits, stream.digests, stream.weights)
    training.run(TRAINER)
    assert (training.bits, training.streams[0].digests, training.streams[0].weights) == first


@pytest.mark.parametrize(
    "launch",
    [(), ("-c", "import accelerate, runpy; runpy.run_path('train.py', run_name='__main__')")],
    ids=["torch imported first", "accelerate imported first"],
)
def test_accelerate_is_recorded_with_its_division(training: Training, launch: tuple[str, ...]) -> None:
    training.run(
        LINEAR
        + """
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
loader = DataLoader(TensorDataset(features, targets), batch_size=2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for inputs, wanted in loader:
    with accelerator.accumulate(model):
        loss = ((model(inputs) - wanted) ** 2).mean()
        accelerator.backward(loss)
        seen(loss.detach() / 2)
        optimizer.step()
        optimizer.zero_grad()
""",
        launch=launch,
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert {loss.scale for loss in stream.losses} == {"0.5"}
    assert stream.optimizer_steps == 2
    assert training.warnings == []


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_lightning_is_recorded(training: Training, manual: bool) -> None:
    training.run(
        f"""
import lightning
from torch.utils.data import DataLoader, TensorDataset
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
        self.automatic_optimization = not {manual}
    def training_step(self, batch, index):
        inputs, wanted = batch
        loss = ((self.linear(inputs) - wanted) ** 2).mean()
        if {manual}:
            seen(loss)
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            return None
        seen(loss.detach() / 2)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches={1 if manual else 2})
trainer.fit(Model(), DataLoader(TensorDataset(features, targets), batch_size=2))
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert len(training.bits) == 4
    assert {loss.scale for loss in stream.losses} == ({"1"} if manual else {"0.5"})
    assert stream.optimizer_steps == (4 if manual else 2)
    assert training.warnings == []


def test_a_notebook_is_recorded_in_its_kernel(training: Training) -> None:
    cell = "\n".join([Training.HEAD, LINEAR, "for _ in range(3):", "    loss = loss_of(model)", "    loss.backward()"])
    cell += "\n    optimizer.step()\n    optimizer.zero_grad()\n    print(loss.item())"
    training.run(
        f"""
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({cell!r})])
nbclient.NotebookClient(notebook, kernel_name="python3", timeout=1200).execute()
for number in notebook.cells[0].outputs[0]["text"].split():
    seen(float(number))
"""
    )
    (stream,) = training.streams
    assert training.bits == training.seen
    assert (len(stream.losses), stream.optimizer_steps, stream.complete) == (3, 3, True)

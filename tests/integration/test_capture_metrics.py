"""What a program logs is recorded as it is logged, whichever logger it uses: each number once, with bits and step."""

from __future__ import annotations

import json
import struct
import subprocess
from typing import Any

import pytest

from reprobox.runtime.metrics import unjudged
from tests.integration.conftest import Training

pytestmark = pytest.mark.network

# MLflow and wandb as on a machine without a network.
OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "MLFLOW_TRACKING_URI": "file:./mlruns",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
_LAYOUTS = {"float16": ">e", "float32": ">f", "float64": ">d"}


def logged_bits(training: Training, process: int = 0) -> list[tuple[str, str | None, str, str]]:
    """Return what one process logged: name, step, dtype and bits of each value, in order."""
    found = []
    for line in (training.record / f"stream-{process:03}.records").read_text().splitlines():
        kind, *fields = line.split("\t")
        if kind == "metric":
            name, _at, step, dtype, bits = fields
            found.append((name, None if step == "-" else step, dtype, bits))
    return found


def logged(training: Training, process: int = 0) -> list[tuple[str, str | None, str, float]]:
    """Return the same with numbers for bits."""
    return [
        (name, step, dtype, struct.unpack(_LAYOUTS[dtype], bytes.fromhex(bits))[0])
        for name, step, dtype, bits in logged_bits(training, process)
    ]


def short(*values: tuple[str, int | None, float]) -> list[tuple[str, str | None, str, float]]:
    """Return expected values that are float64, as Python's own numbers are."""
    return [(name, None if step is None else str(step), "float64", float(number)) for name, step, number in values]


@pytest.fixture
def loggers(training: Training) -> Training:
    """The training, if an interpreter that somebody named (REPROBOX_TEST_PYTHON) has the loggers."""
    names = ("tensorboard", "tensorboardX", "mlflow", "wandb")
    wanted = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {names})))"
    if subprocess.run([training.python, "-c", wanted], check=False).returncode:
        pytest.skip("this interpreter lacks one of the loggers")
    return training


def test_each_logger_is_recorded_in_the_order_of_its_calls(loggers: Training) -> None:
    loggers.run(
        """
import numpy
from torch.utils.tensorboard import SummaryWriter
import tensorboardX, mlflow, wandb
from reprobox.runtime import log
writer = SummaryWriter("board")
writer.add_scalar("acc", 0.5, 3)
writer.add_scalar(tag="single", scalar_value=torch.tensor([0.25]), global_step=torch.tensor(4))
writer.add_scalar("half", numpy.float16(0.1))
writer.add_scalars("both", {"a": 1, "b": numpy.array([2.0], dtype=numpy.float32)}, 5)
writer.add_histogram("histogram", features, 1)
writer.add_text("text", "words")
writer.add_hparams({"lr": 0.1}, {"hp/acc": 3.0})
writer.close()
other = tensorboardX.SummaryWriter("board-x")
other.add_scalar("x/acc", 0.125, 3)
other.add_scalars("x", {"a": 1}, 5)
other.close()
with mlflow.start_run() as run:
    mlflow.log_metric("flow", 0.5, step=2)
    mlflow.log_metrics({"first": 1.0, "second": torch.tensor(2.0)}, step=7)
    mlflow.log_metric("later", 0.5, step=8, synchronous=False)
    mlflow.log_param("lr", 0.1)
    mlflow.MlflowClient().log_metric(run.info.run_id, "client", 4)
with wandb.init(project="tests", dir=".") as run:
    wandb.log({"loss": 0.5, "nested": {"a": {"b": 1}, "c": "text"}, "histogram": wandb.Histogram([1, 2, 3]),
               "large": 2**53 + 1, "list": [1.0], "flag": True})
    run.log({"acc": torch.tensor(0.7)}, step=9)
log(own=0.5)
""",
        env=OFFLINE,
    )
    assert logged(loggers) == [
        *short(("acc", 3, 0.5)),
        ("single", "4", "float32", 0.25),
        ("half", None, "float16", struct.unpack("e", struct.pack("e", 0.1))[0]),
        *short(("both/a", 5, 1)),
        ("both/b", "5", "float32", 2.0),
        *short(("hp/acc", None, 3), ("x/acc", 3, 0.125), ("x/a", 5, 1), ("flow", 2, 0.5), ("first", 7, 1)),
        ("second", "7", "float32", 2.0),
        *short(("later", 8, 0.5), ("client", None, 4)),
        *short(("loss", None, 0.5), ("nested.a.b", None, 1), ("large", None, 2**53), ("flag", None, 1)),
        ("acc", "9", "float32", struct.unpack("f", struct.pack("f", 0.7))[0]),
        *short(("own", None, 0.5)),
    ]
    assert loggers.warnings == []


LIGHTNING = """
import {library} as lightning
from torch.utils.data import DataLoader, TensorDataset
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        loss = self.loss_of(batch)
        self.log("train_loss", loss)
        self.log("both", loss, on_step=True, on_epoch=True)
        return loss
    def loss_of(self, batch):
        return ((self.linear(batch[0]) - batch[1]) ** 2).mean()
    def validation_step(self, batch, index, dataloader_idx=0):
        loss = self.loss_of(batch)
        self.log_dict({{"val_loss": loss, "val_acc": (loss < 2).double()}})
        self.log("unseen", loss, logger=False)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(features, targets), batch_size=2)
trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, {options})
trainer.fit(Model(), loader, {validation})
for name, value in sorted(trainer.callback_metrics.items()):
    print("callback", name, value.item())
"""


def callback_metrics(output: str) -> dict[str, float]:
    """Return what a person sees as `trainer.callback_metrics` at the end."""
    lines = [line.split() for line in output.splitlines() if line.startswith("callback ")]
    return {name: float(number) for _, name, number in lines}


def test_lightning_without_a_logger_is_recorded_as_a_person_sees_it(loggers: Training) -> None:
    code = LIGHTNING.format(library="lightning", options="logger=False", validation="loader")
    seen = callback_metrics(loggers.run(code).stdout)
    found = logged(loggers)
    # A step's values are given to loggers every 50 steps. Of these two short epochs the last ones are recorded.
    per_epoch = ["val_loss", "val_acc", "unseen", "train_loss", "both_epoch"]
    steps = [("3", name) for name in per_epoch] + [("7", name) for name in per_epoch]
    assert [(step, name) for name, step, _, _ in found] == steps
    last = {name: number for name, step, _, number in found if step == "7"}
    assert last == {name: seen[name] for name in per_epoch}
    assert {dtype for name, _, dtype, _ in found if name != "val_acc"} == {"float32"}
    assert {dtype for name, _, dtype, _ in found if name == "val_acc"} == {"float64"}
    assert loggers.warnings == []


def test_lightning_with_loggers_is_recorded_once(loggers: Training) -> None:
    options = (
        "log_every_n_steps=2, logger=[lightning.loggers.TensorBoardLogger('.'), lightning.loggers.CSVLogger('.'), "
        "lightning.loggers.MLFlowLogger(tracking_uri='file:./mlruns')], callbacks=["
        "lightning.callbacks.LearningRateMonitor('epoch'), lightning.callbacks.DeviceStatsMonitor(cpu_stats=True)]"
    )
    code = LIGHTNING.format(library="lightning.pytorch", options=options, validation="[loader, loader]")
    loggers.run(code, env=OFFLINE)
    found = logged(loggers)
    per_step = [(name, step) for name, step, _, _ in found if name in ("train_loss", "both_step")]
    assert per_step == [(name, step) for step in "1357" for name in ("train_loss", "both_step")]
    per_epoch = [(name, step) for name, step, _, _ in found if name.startswith(("val_acc", "unseen", "both_epoch"))]
    names = [f"{name}/dataloader_idx_{index}" for index in (0, 1) for name in ("val_acc", "unseen")]
    assert per_epoch == [(name, step) for step in "37" for name in (*names, "both_epoch")]
    # What a callback gives to each of the loggers is given, and recorded, three times.
    assert [number for name, _, _, number in found if name == "lr-SGD"] == [0.1] * 6
    rest = {name for name, _, _, _ in found if not name.startswith(("val_", "unseen", "both", "train_loss", "lr-SGD"))}
    assert rest
    assert all(unjudged(name) for name in rest)
    assert loggers.warnings == []


def test_the_older_package_of_lightning_is_recorded_too(loggers: Training) -> None:
    code = LIGHTNING.format(library="pytorch_lightning", options="logger=False", validation="loader")
    seen = callback_metrics(loggers.run(code).stdout)
    assert ("val_loss", "7", "float32", seen["val_loss"]) in logged(loggers)


def test_hugging_faces_trainer_is_recorded_once_and_a_callback_of_the_programs_too(loggers: Training) -> None:
    done = loggers.run(
        """
import json, wandb
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
data = [{"input_ids": torch.randint(0, 50, (8,)), "labels": torch.randint(0, 50, (8,))} for _ in range(16)]
arguments = TrainingArguments(output_dir="outputs", max_steps=4, per_device_train_batch_size=2, use_cpu=True,
    report_to=["tensorboard", "wandb", "mlflow"], logging_steps=2, save_strategy="no", eval_strategy="epoch",
    disable_tqdm=True, skip_memory_metrics=False)
class Mine(TrainerCallback):
    def on_log(self, args, state, control, **kwargs):
        wandb.log({"mine": state.global_step})
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2))
trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[Mine()],
    compute_metrics=lambda found: {"accuracy": 0.75})
trainer.train()
print("history", json.dumps(trainer.state.log_history))
""",
        env=OFFLINE,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("history ")]
    expected: list[tuple[str, int | None, float]] = []
    history: list[dict[str, Any]] = json.loads(line.partition(" ")[2])
    for entry in history:
        step = entry.pop("step")
        expected += [(name, step, number) for name, number in entry.items() if name != "epoch"]
        expected.append(("mine", None, step))
    assert logged(loggers) == short(*expected)
    judged = {name for name, _, _ in expected if not unjudged(name)}
    results = {"loss", "grad_norm", "learning_rate", "train_loss", "total_flos", "eval_loss", "eval_accuracy", "mine"}
    assert judged == results
    assert loggers.warnings == []


def test_whatever_calls_a_logger_is_recorded(loggers: Training) -> None:
    """Accelerate's trackers, Fabric without a logger, a compiled function, a thread and a forked child."""
    done = loggers.run(
        """
import multiprocessing, threading, traceback
import lightning
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter
accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir="tracked")
accelerator.init_trackers("tracked")
accelerator.log({"loss": 0.5, "nested": {"a": 1.0}}, step=3)
accelerator.end_training()
fabric = lightning.Fabric(accelerator="cpu")
fabric.log("fabric", torch.tensor(0.5), step=3)
writer = SummaryWriter("board")
@torch.compile(backend="eager")
def step(number):
    loss = features.square().mean()
    writer.add_scalar("compiled", loss, number)
    return loss + 1
for number in range(3):
    seen(step(number) - 1)
try:
    writer.add_scalar("refused", features)
except Exception:
    traceback.print_exc()
thread = threading.Thread(target=writer.add_scalar, args=("thread", 1.0))
thread.start()
thread.join()
def child():
    SummaryWriter("child").add_scalar("child", 0.5)
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
assert process.exitcode == 0
""",
        env=OFFLINE,
    )
    (mean,) = {struct.unpack(">f", bytes.fromhex(bits))[0] for bits in loggers.seen}
    found = logged(loggers)
    assert [each for each in found if each[0] == "compiled"] == [
        ("compiled", step, "float32", pytest.approx(mean)) for step in "012"
    ]
    assert [each for each in found if each[0] != "compiled"] == [
        *short(("loss", 3, 0.5), ("nested/a", 3, 1)),
        ("fabric", "3", "float32", 0.5),
        *short(("thread", None, 1)),
    ]
    assert logged(loggers, 1) == short(("child", None, 0.5))
    assert loggers.warnings == []
    assert "writer.py" in done.stderr, "the program's own mistake is shown"
    assert "reprobox/runtime" not in done.stderr

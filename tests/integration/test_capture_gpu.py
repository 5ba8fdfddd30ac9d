"""On a GPU: no hook waits for the device, scales and skipped steps arrive, CUDA graphs are recorded at each replay.

The container's test wants an image with torch for CUDA, gcc and Python's headers: REPROBOX_TEST_GPU_BASE=local:IMAGE.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.conftest import Reprobox, Training
from tests.integration.test_capture_metrics import logged_bits

BASE = os.environ.get("REPROBOX_TEST_GPU_BASE")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.network,
    pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="there is no NVIDIA GPU"),
]

HEAD = """
features, targets = features.cuda(), targets.cuda()
model = torch.nn.Linear(4, 1).cuda()
"""


def test_recording_never_waits_for_the_device(training: Training) -> None:
    training.run(
        HEAD
        + """
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
kept = []
for step in range(300):
    if step == 2:
        torch.cuda.set_sync_debug_mode("error")   # from here on every wait is an error
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    kept.append(loss.detach().clone())
torch.cuda.set_sync_debug_mode("default")
seen(*kept)
""",
        digest_every=1,
    )
    (stream,) = training.streams
    assert training.warnings == []
    assert training.bits == training.seen
    assert len(stream.digests) == 601


def test_amp_records_scales_and_skipped_steps(training: Training) -> None:
    for fused in (False, True):
        training.run(
            HEAD
            + f"""
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused={fused})
scaler = torch.amp.GradScaler("cuda", init_scale=1024.0, growth_interval=2)
for step in range(5):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
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
        assert stream.skipped_steps == 1


def test_a_cuda_graph_is_recorded_at_each_replay(training: Training) -> None:
    training.run(
        HEAD
        + """
import time
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model)
        loss.backward()
        seen(loss)
        optimizer.step()
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
optimizer.zero_grad(set_to_none=True)
time.sleep(0.3)   # so that a flush falls due while the graph is captured
with torch.cuda.graph(graph):
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
for _ in range(5):
    graph.replay()
    seen(loss)
"""
    )
    (stream,) = training.streams
    assert training.warnings == []
    assert training.bits == training.seen
    assert (len(stream.losses), stream.optimizer_steps) == (8, 8)


def test_graphed_callables_add_no_losses_of_their_own(training: Training) -> None:
    training.run(
        HEAD
        + """
model = torch.cuda.make_graphed_callables(model, (features,))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    seen(loss)
    optimizer.step()
"""
    )
    assert training.bits == training.seen


def test_a_compiled_model_with_cuda_graphs_is_recorded(training: Training) -> None:
    training.run(
        HEAD
        + """
compiled = torch.compile(model, mode="reduce-overhead")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    loss = loss_of(compiled)
    loss.backward()
    seen(loss)
    optimizer.step()
"""
    )
    assert training.bits == training.seen


def test_activation_checkpointing_in_the_devices_threads_is_no_second_loss(training: Training) -> None:
    training.run(
        HEAD
        + """
from torch.utils.checkpoint import checkpoint
hidden = features.clone().requires_grad_()
loss = ((checkpoint(model, hidden, use_reentrant=True) - targets) ** 2).mean()
loss.backward()
seen(loss)
"""
    )
    assert training.bits == training.seen


COMPILED = """
import json, os, pathlib
import torch

layers = [torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.LayerNorm(256), torch.nn.Linear(256, 1)]
model = torch.nn.Sequential(*layers).cuda()
compiled = torch.compile(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
for _ in range(6):
    inputs = torch.randn(512, 64, device="cuda")
    loss = ((compiled(inputs) - inputs.sum(1, keepdim=True)) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
kernels = len(list(pathlib.Path("/tmp").rglob("*.cubin")))  # a new one for each container
where = os.environ.get("TRITON_LIBCUDA_PATH")
pathlib.Path("facts.json").write_text(json.dumps({"kernels": kernels, "where": where}))
"""


@pytest.mark.docker
@pytest.mark.skipif(BASE is None, reason="REPROBOX_TEST_GPU_BASE names no image")
def test_a_compiled_model_in_a_container_trains_by_triton_and_its_replay_is_exact(
    reprobox: Reprobox, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(COMPILED)
    (tmp_path / "reprobox.yaml").write_text("name: compiled\ncommand: [python, train.py]\ndeterministic: true\n")
    where = ("--engine", "docker", "--gpus", "all", "--shm", "1g", "--installed", "--base", str(BASE))
    report = reprobox("run", "--json", *where, folder=tmp_path).data
    facts = json.loads((Path(report["run_dir"]) / "work" / "facts.json").read_text())
    assert (report["steps"], facts["kernels"] > 0) == (6, True)
    access = reprobox("show", report["manifest"], "--json", folder=tmp_path).data["engine"]["gpu_access"]
    assert (facts["where"] == "/reprobox/driver") == (access == "devices")
    replay = reprobox("replay", report["manifest"], "--json", folder=tmp_path).data
    assert (replay["verdict"], replay["steps_compared"]) == ("EXACT", 6)


def test_what_is_logged_on_the_device_is_not_waited_for(training: Training) -> None:
    training.run(
        HEAD
        + """
import struct
from reprobox.runtime import log
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
kept = []
for step in range(300):
    if step == 2:
        torch.cuda.set_sync_debug_mode("error")   # from here on every wait is an error
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    log(single=loss, double=loss.double(), half=loss.bfloat16())
    kept.append(loss.detach().clone())
    loss.zero_()                                  # what was logged was copied before
torch.cuda.set_sync_debug_mode("default")
log(whole=torch.tensor(3).cuda())
seen(*kept)
""",
        digest_every=0,
    )
    found = logged_bits(training)
    assert [bits for name, _, _, bits in found if name == "single"] == training.seen
    assert [dtype for _, _, dtype, _ in found] == ["float32", "float64", "bfloat16"] * 300 + ["float64"]
    assert training.warnings == []


def test_lightnings_metrics_on_the_device_are_not_waited_for(training: Training) -> None:
    training.run(
        """
import pytorch_lightning as lightning
from torch.utils.data import DataLoader, TensorDataset
class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        loss = ((self.linear(batch[0]) - batch[1]) ** 2).mean()
        self.log("train_loss", loss)
        return loss
    def on_train_batch_end(self, outputs, batch, index):
        torch.cuda.set_sync_debug_mode("error" if index < 3 else "default")  # until the hooks after the next step
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
trainer = lightning.Trainer(max_epochs=2, accelerator="gpu", devices=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)
trainer.fit(Model(), DataLoader(TensorDataset(features, targets), batch_size=2))
""",
        digest_every=0,
    )
    losses = [loss.bits for loss in training.streams[0].losses]
    assert [(name, step, bits) for name, step, _, bits in logged_bits(training)] == [
        ("train_loss", str(step), bits) for step, bits in enumerate(losses)
    ]
    assert training.warnings == []

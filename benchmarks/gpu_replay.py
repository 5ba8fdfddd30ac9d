"""Runs real trainings through `reprobox run` and `replay`, in containers on a GPU, and prints what their manifests say.

Promised: EXACT for every deterministic training; for GPT-2 in fast mode, whose backward pass differs from run to run,
DIVERGED with the first differing step. The base holds the environment (torch for CUDA, transformers, torchvision,
scikit-learn; for `compiled` also gcc and Python's headers, with which Triton builds what starts its kernels), so
nothing is installed: `--base local:IMAGE`. Without `--base` the requirements are locked and installed, and `--gpus none
--engine local --only gpt2-fp32 compiled --layers 1 --batch 1 --steps 3` tries the benchmark itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timing import heading, table, verdict

PROGRAM = """
import argparse
import contextlib
import os
import pathlib
import tempfile
import torch
import torch.distributed

parser = argparse.ArgumentParser()
parser.add_argument("model", choices=["gpt2", "resnet50"])
parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
parser.add_argument("--steps", type=int)
parser.add_argument("--batch", type=int)
parser.add_argument("--layers", type=int, default=12)
parser.add_argument("--compile", action="store_true")
options = parser.parse_args()
device = "cuda" if torch.cuda.is_available() else "cpu"
parallel = "RANK" in os.environ
if parallel:
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # A machine shared with others may have NVLink's multicast forbidden.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    torch.distributed.init_process_group("nccl")
if options.model == "gpt2":
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=options.layers)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    batches = torch.randint(0, 50257, (8, options.batch, 1024))
else:
    import torchvision

    model = torchvision.models.resnet50().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = torch.randn(4, options.batch, 3, 224, 224)
    labels = torch.randint(0, 1000, (4, options.batch), device=device)
batches = batches.to(device)
if options.compile:
    model = torch.compile(model)
if parallel:
    batches = batches.roll(torch.distributed.get_rank(), 0)  # each process its own share of the data
    model = torch.nn.parallel.DistributedDataParallel(model)
autocast = torch.autocast(device, torch.bfloat16) if options.dtype == "bfloat16" else contextlib.nullcontext()
for step in range(options.steps):
    batch = batches[step % len(batches)]
    with autocast:
        if options.model == "gpt2":
            loss = model(batch, labels=batch).loss
        else:
            loss = torch.nn.functional.cross_entropy(model(batch), labels[step % len(batches)])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
if options.compile and device == "cuda":
    # Else nothing was shown: the kernels that Triton made are kept in a container's /tmp.
    assert any(pathlib.Path(tempfile.gettempdir()).rglob("*.cubin")), "Triton made no kernel"
if parallel:
    torch.distributed.destroy_process_group()
"""


@dataclass(frozen=True)
class Training:
    """A training: its title, template (None: PROGRAM) and arguments, whether it is to repeat, on how many GPUs."""

    title: str
    template: str | None
    arguments: tuple[str, ...]
    deterministic: bool = True
    gpus: int = 1

    @property
    def command(self) -> tuple[str, ...]:
        """What runs it: python, or torchrun with a process for each GPU."""
        if self.gpus == 1:
            return ("python", "train.py", *self.arguments)
        processes = f"--nproc-per-node={self.gpus}"
        return ("torchrun", processes, "--master-addr=127.0.0.1", "--master-port=29500", "train.py", *self.arguments)


GPT2 = ("gpt2", "--batch", "16", "--steps", "40")
TRAININGS = {
    "gpt2-bf16": Training("GPT-2 124M, bf16, batch 16 x 1024", None, (*GPT2, "--dtype", "bfloat16")),
    "gpt2-fp32": Training("GPT-2 124M, fp32, batch 16 x 1024", None, GPT2),
    "gpt2-fast": Training("GPT-2 124M, bf16, batch 16 x 1024", None, (*GPT2, "--dtype", "bfloat16"), False),
    "gpt2-ddp": Training("GPT-2 124M, bf16, batch 2 x 16 x 1024, NCCL", None, (*GPT2, "--dtype", "bfloat16"), gpus=2),
    "compiled": Training(
        "GPT-2 of 4 layers, bf16, torch.compile, batch 16 x 1024",
        None,
        (*GPT2, "--dtype", "bfloat16", "--layers", "4", "--compile"),
    ),
    "resnet50": Training("ResNet-50, fp32, batch 128", None, ("resnet50", "--batch", "128", "--steps", "48")),
    "vision": Training("template vision, 10 epochs", "vision", ("--epochs", "10")),
    "language-model": Training(
        "template language-model, width 512, 8 layers, batch 64",
        "language-model",
        ("--width", "512", "--layers", "8", "--heads", "8", "--batch-size", "64"),
    ),
}


def main() -> int:
    """Run, replay, print, and return 1 when a verdict is not the promised one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="image that holds the environment, such as local:IMAGE")
    parser.add_argument("--engine", default="docker")
    parser.add_argument("--gpus", default="all")
    parser.add_argument(
        "--only", nargs="+", choices=list(TRAININGS), help="default: all that the GPUs here suffice for"
    )
    for name in ("--steps", "--batch", "--layers"):
        parser.add_argument(name, help="instead of the training's own, for those of this file")
    options = parser.parse_args()

    heading("Run and replay in containers", docker=False)
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    names = options.only or [name for name, training in TRAININGS.items() if training.gpus <= max(here, 1)]
    rows: list[tuple[str, ...]] = [
        ("training", "mode", "losses", "first and last", "digests", "verdict", "run", "replay")
    ]
    held = []
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as folder:
        for name in names:
            row, held_here = judged(TRAININGS[name], Path(folder) / name, options)
            rows.append(row)
            held.append(held_here)
    table(rows)
    print()
    promised = [verdict(f"{name}: {row[5]}", good) for name, row, good in zip(names, rows[1:], held, strict=True)]
    return 0 if all(promised) else 1


def judged(training: Training, project: Path, options: argparse.Namespace) -> tuple[tuple[str, ...], bool]:
    """Run and replay one training; return its row and whether the verdict is the promised one."""
    own = [f"--{name}={value}" for name in ("steps", "batch", "layers") if (value := getattr(options, name))]
    if training.template is not None:
        reprobox(["init", training.template, str(project)], project.parent)
    else:
        project.mkdir()
        (project / "train.py").write_text(PROGRAM)
        (project / "requirements.txt").write_text("torch\ntransformers\n")
        training = replace(training, arguments=(*training.arguments, *own))
    environment = ["--installed", "--base", options.base] if options.base else []
    # What this machine's owner set for NCCL and its like holds inside the container, too.
    passed = [name for name in os.environ if name.startswith(("NCCL_", "NVSHMEM_", "TORCH_SYMM_MEM_"))]
    environment += [f"--env={name}" for name in passed]
    mode = "--deterministic" if training.deterministic else "--fast"
    command = ["run", "--json", "--engine", options.engine, "--gpus", options.gpus, "--shm", "8g", mode, *environment]
    began = time.monotonic()
    run = reprobox([*command, "--", *training.command], project)
    ran = time.monotonic()
    replay = reprobox(["replay", run["manifest"], "--json", "--engine", options.engine], project, ends=(0, 1))
    replayed = time.monotonic()
    shown = reprobox(["show", run["manifest"], "--json"], project)
    found = str(replay["verdict"])
    if replay["first_divergence"]:
        found += f" at step {replay['first_divergence']['step']} ({replay['first_divergence']['what']})"
    row = (
        training.title,
        "deterministic" if training.deterministic else "fast",
        str(run["steps"]),
        f"{run['first_loss']} {run['final_loss']}",
        str(sum(stream["digest_count"] for stream in shown["streams"])),
        found,
        f"{ran - began:.0f} s",
        f"{replayed - ran:.0f} s",
    )
    return row, replay["verdict"] == ("EXACT" if training.deterministic else "DIVERGED")


def reprobox(arguments: list[str], folder: Path, ends: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run the command of this interpreter's reprobox and return its object. Ends the benchmark when it fails."""
    command = [sys.executable, "-m", "reprobox", *arguments]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode not in ends:
        print(done.stdout[-2000:] + done.stderr[-4000:], file=sys.stderr)
        sys.exit(f"exit {done.returncode}: {' '.join(command)}")
    found: dict[str, Any] = json.loads(done.stdout) if "--json" in arguments else {}
    return found


if __name__ == "__main__":
    sys.exit(main())

"""What recording and deterministic mode cost on a GPU: GPT-2 124M and ResNet-50, in three modes, interleaved.

`bare` is the plain program in fast mode (cudnn.benchmark), `fast` the same under the runtime, which records, and
`deterministic` the runtime's deterministic mode. Promised: recording under 1 % of a step; deterministic over fast
under 2 % for GPT-2 and under 1 % for ResNet-50. Runs with an interpreter that has torch (CUDA), transformers and
torchvision; the runtime needs nothing else. Times are of steps on the device, between two synchronisations, after a
warm-up.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from recorder import lay_out, recorded_by
from timing import ask, heading, interleaved, judge, median, table

PROGRAM = """
import sys, time
import torch

torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark or not torch.are_deterministic_algorithms_enabled()
kind, steps, warm_up = sys.argv[1], int(sys.argv[2]), 10
if kind == "gpt2":
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config()).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    batches = torch.randint(0, 50257, (8, 16, 1024)).cuda()

    def loss_of(step):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return model(batches[step % 8], labels=batches[step % 8]).loss
else:
    import torchvision

    model = torchvision.models.resnet50().cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.randn(4, 128, 3, 224, 224).cuda(), torch.randint(0, 1000, (4, 128)).cuda()

    def loss_of(step):
        return torch.nn.functional.cross_entropy(model(images[step % 4]), labels[step % 4])

for step in range(warm_up + steps):
    if step == warm_up:
        torch.cuda.synchronize()
        began = time.perf_counter()
    loss = loss_of(step)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
torch.cuda.synchronize()
print(1e3 * (time.perf_counter() - began) / steps)
"""
MODELS = {
    "gpt2": ("GPT-2 124M, bf16, batch 16 x 1024, fused AdamW", 2.0),
    "resnet": ("ResNet-50, fp32, batch 128, SGD", 1.0),
}
BARE, FAST, DETERMINISTIC = "bare", "fast", "deterministic"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=sys.executable, help="an interpreter with torch for CUDA (default: this one)"
    )
    parser.add_argument("--model", choices=sorted(MODELS), action="append", help="measure this one only (repeatable)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    question = (
        "import torch, torchvision, transformers\n"
        "print(torch.cuda.get_device_name(), '- torch', torch.__version__, '- transformers', transformers.__version__)"
    )
    asked = subprocess.run([options.python, "-c", question], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        print(f"{options.python} has no GPU, or lacks torch, torchvision or transformers", file=sys.stderr)
        return 2
    heading(f"Cost on a GPU, {options.steps} steps, {options.rounds} interleaved runs each", docker=False)
    print(asked.stdout)
    held = True
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as name:
        folder = Path(name)
        site = lay_out(folder)
        (folder / "train.py").write_text(PROGRAM)
        for model in options.model or MODELS:
            command = [options.python, "-W", "ignore", str(folder / "train.py"), model, str(options.steps)]
            cases = {
                BARE: partial(train, command, None, folder),
                FAST: partial(train, command, site, folder),
                DETERMINISTIC: partial(train, command, site, folder, deterministic=True),
            }
            held &= report(model, interleaved(cases, options.rounds, warm_up=False))
    return 0 if held else 1


def train(command: list[str], site: Path | None, folder: Path, *, deterministic: bool = False) -> float:
    """Run the program, under the runtime if `site` is given; return milliseconds per step."""
    env = {**os.environ, "PYTHONHASHSEED": "42"}
    if site is not None:
        env |= recorded_by(site, folder / "record", deterministic=deterministic, threads=None)
    if deterministic:
        env["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return float(ask(command, env=env).split()[-1])


def report(model: str, times: dict[str, list[float]]) -> bool:
    """Print one model's figures; return whether the promises hold."""
    title, limit = MODELS[model]
    middles = {name: median(values) for name, values in times.items()}
    rows = [(title, "median", "all", "over bare", "over fast")]
    for name, values in times.items():
        rows.append(
            (
                name,
                f"{middles[name]:.2f} ms/step",
                " ".join(f"{value:.2f}" for value in values),
                f"{100 * (middles[name] / middles[BARE] - 1):+.2f} %",
                f"{100 * (middles[name] / middles[FAST] - 1):+.2f} %",
            )
        )
    table(rows)
    print()
    recording = 100 * (middles[FAST] / middles[BARE] - 1)
    determinism = 100 * (middles[DETERMINISTIC] / middles[FAST] - 1)
    held = judge(f"{model}: recording", recording, 1.0, " %")
    held &= judge(f"{model}: deterministic over fast", determinism, limit, " %")
    print(flush=True)
    return held


if __name__ == "__main__":
    sys.exit(main())

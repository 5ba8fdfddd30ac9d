"""Which results of a GPU are the same, bit for bit, on another GPU model: measured on each, then compared.

`trainings` trains GPT-2, ResNet-50, a U-Net and ViT-B/16 for some steps in fp32, bf16 and fp16, deterministic and
without TF32. `convolutions` computes each distinct convolution of ResNet-50 alone and names the kernels that did it.
`dropout` draws random numbers, then once more in a process that is told of fewer multiprocessors (SMs), as another
model would have. Each writes a result file (--out) with a digest per result; `compare` says where two files differ.
A file compared with a second one of the same card shows what does not even repeat there.

Inputs and weights come from the CPU's generator, so a difference in `trainings` and `convolutions` is one of
arithmetic. With `--sms N --by driver` these two also run as if the card had N SMs. A case that fails is a row with
its error, and the others go on. Needs torch, and for the trainings torchvision and transformers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fewer_sms import MPS, WAY_VARIABLE, WAYS, fewer_sms
from timing import heading, table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SEED = 42
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
AGREES, DIFFERS = "same", "DIFFERS"


@dataclass
class Row:
    """One case: its short digests by what they are of, and what helps to find a difference."""

    case: str
    group: str
    digests: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Result:
    """What one part finds on one machine. The file is rewritten with each row: a run cut short leaves what it had."""

    def __init__(self, part: str, options: argparse.Namespace) -> None:
        """Begin with the machine and with the settings that must be equal for a comparison."""
        names = ("tiny", *(name for name in ("steps", "blas") if name in options))
        settings = {name: getattr(options, name) for name in names}
        self.rows: list[Row] = []
        self.told: list[dict[str, Any]] = []
        self.head: dict[str, Any] = {"part": part, "settings": settings, "machine": describe(options.device)}
        self.out: Path | None = options.out
        self.quiet: bool = getattr(options, "told", False)

    def add(self, row: Row) -> None:
        """Print a row, and write the file."""
        self.rows.append(row)
        if not self.quiet:
            texts = [f"{name} {digest}" for name, digest in row.digests.items()]
            if "ms" in row.more:
                texts.append(f"{row.more['ms']:.1f} ms/step, losses {row.more['first']:.6g} to {row.more['last']:.6g}")
            print(f"{row.case:46}  {row.error or '  '.join(texts)}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the file, if one was asked for."""
        if self.out is not None:
            self.out.write_text(json.dumps(self.content(), indent=1), encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {**self.head, "rows": [asdict(row) for row in self.rows], "told": self.told}


def main() -> int:
    """Measure one part, or compare two results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, measure in (("trainings", trainings), ("convolutions", convolutions), ("dropout", dropout)):
        part = parts.add_parser(name)
        part.set_defaults(measure=measure)
        part.add_argument("--out", type=Path, help="write the result to this file")
        part.add_argument("--only", default="", help="only the cases whose name has this in it")
        part.add_argument("--device", default="cuda", help="cpu, with --tiny, tries the benchmark itself")
        part.add_argument("--tiny", action="store_true", help="small shapes")
        part.add_argument("--sms", type=int, help="tell the process that the GPU has so many SMs (default: the truth)")
        if name == "trainings":
            part.add_argument("--steps", type=int, default=12)
            part.add_argument("--blas", choices=["cublaslt", "cublas", "default"], default="cublaslt")
        if name == "dropout":
            part.add_argument("--told", action="store_true", help=argparse.SUPPRESS)
        else:
            part.add_argument("--by", choices=list(WAYS), default="driver", help="what --sms goes by (fewer_sms.py)")
    part = parts.add_parser("compare")
    part.add_argument("first", type=Path)
    part.add_argument("second", type=Path)
    part.add_argument("--all", action="store_true", help="list the cases that agree too, however many")
    options = parser.parse_args()
    if options.part == "compare":
        return compare(options.first, options.second, everything=options.all)
    if options.sms and options.part != "dropout" and WAY_VARIABLE not in os.environ:
        with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as name, as_if(options, Path(name)) as env:
            return subprocess.run([sys.executable, *sys.argv], env=env, check=False).returncode
    warnings.filterwarnings("ignore")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU here (--device cpu --tiny tries the benchmark itself)", file=sys.stderr)
        return 2
    result = Result(options.part, options)
    if not result.quiet:
        heading(f"GPU portability: {options.part}", docker=False)
        print(", ".join(f"{name} {value}" for name, value in result.head["machine"].items()) + "\n", flush=True)
    began = time.perf_counter()
    options.measure(options, result)
    result.write()
    if not result.quiet:
        failed = sum(row.error is not None for row in result.rows)
        print(f"\n{len(result.rows)} cases, {failed} failed, {time.perf_counter() - began:.0f} s")
    return 0


def as_if(options: argparse.Namespace, folder: Path) -> contextlib.AbstractContextManager[dict[str, str]]:
    """Return the environment for a whole part under --sms; the real number matters to MPS alone, not offered there."""
    return fewer_sms(options.by, options.sms, options.sms, folder)


def describe(device: str) -> dict[str, Any]:
    """Return what the results may depend on: the card as torch sees it, the driver and the libraries."""
    import torch

    found: dict[str, Any] = {"device": platform.machine(), "sms": None}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found = {
            "device": card.name,
            "sms": card.multi_processor_count,
            "threads per SM": card.max_threads_per_multi_processor,
            "capability": f"{card.major}.{card.minor}",
            "driver": _driver(),
        }
    if WAY_VARIABLE in os.environ:
        found["told by"] = os.environ[WAY_VARIABLE]
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    return "unknown"


def prepare(options: argparse.Namespace) -> None:
    """Seed, and make torch deterministic and exact: no TF32."""
    import torch

    from reprobox.runtime import set_random_seed

    set_random_seed(SEED, deterministic=True)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if options.device == "cuda" and "blas" in options:
        torch.backends.cuda.preferred_blas_library(options.blas)


def digest(tensor: Any) -> str:
    """Return a short sha256 over the bits of a tensor, in the order of its indices whatever its memory format."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(memoryview(flat.cpu().numpy())).hexdigest()[:12]


def digest_of(named: Mapping[str, str]) -> str:
    """Return one short digest over many."""
    return hashlib.sha256(json.dumps(list(named.items())).encode()).hexdigest()[:12]


@contextlib.contextmanager
def failing_softly(row: Row) -> Iterator[None]:
    """Turn an error within into the row's, and free what the case held."""
    import torch

    try:
        yield
    except Exception as error:
        row.error = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    gc.collect()
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


# Trainings


@dataclass
class Training:
    """A model on the CPU, how its optimizer is made, its batches, and the loss of one."""

    model: Any
    optimizer: Callable[[Any], Any]
    batches: list[tuple[Any, ...]]
    loss_of: Callable[..., Any]


def gpt2(tiny: bool) -> Training:
    """GPT-2 124M, batch 16 x 1024, fused AdamW, no dropout."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 211, "bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **(size if tiny else {}))
    texts = torch.randint(0, config.vocab_size, (4, 2, 32) if tiny else (4, 16, 1024))
    return Training(
        GPT2LMHeadModel(config),
        lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, fused=True),
        [(text,) for text in texts],
        lambda model, text: model(text, labels=text).loss,
    )


def classifier(model: Any, optimizer: Callable[[Any], Any], batch: int, side: int) -> Training:
    """Return a training of an image classifier with 1000 classes."""
    import torch

    images, labels = torch.randn(2, batch, 3, side, side), torch.randint(0, 1000, (2, batch))
    return Training(
        model,
        optimizer,
        list(zip(images, labels, strict=True)),
        lambda model, images, labels: torch.nn.functional.cross_entropy(model(images), labels),
    )


def resnet50(tiny: bool) -> Training:
    """ResNet-50, batch 128, SGD."""
    import torch

    return classifier(
        resnet50_model(tiny),
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        *((2, 32) if tiny else (128, 224)),
    )


def resnet50_model(tiny: bool) -> Any:
    """Return ResNet-50, or one with a single block per stage."""
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1] if tiny else [3, 4, 6, 3])


def vit(tiny: bool) -> Training:
    """ViT-B/16, batch 64, fused AdamW, no dropout."""
    import torch
    from torchvision.models.vision_transformer import VisionTransformer

    layers, heads, width, inner, side = (2, 2, 32, 64, 32) if tiny else (12, 12, 768, 3072, 224)
    return classifier(
        VisionTransformer(side, 16, layers, heads, width, inner),
        lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, fused=True),
        2 if tiny else 64,
        side,
    )


def unet(tiny: bool) -> Training:
    """A diffusion model's U-Net on 32 x 32 images, batch 64, fused AdamW: it learns to predict noise."""
    import torch
    from unet import UNet

    batch, side = (2, 8) if tiny else (64, 32)
    noisy, noise = torch.randn(2, 4, batch, 3, side, side)
    steps = torch.randint(0, 1000, (4, batch))
    return Training(
        UNet((32, 64), 1, 32) if tiny else UNet(),
        lambda parameters: torch.optim.AdamW(parameters, lr=2e-4, fused=True),
        list(zip(noisy, steps, noise, strict=True)),
        lambda model, noisy, steps, noise: torch.nn.functional.mse_loss(model(noisy, steps).float(), noise),
    )


# Each with whether channels_last is a variant of it.
MODELS = {"GPT-2": (gpt2, False), "ResNet-50": (resnet50, True), "U-Net": (unet, True), "ViT-B/16": (vit, False)}


def trainings(options: argparse.Namespace, result: Result) -> None:
    """Train each model in each precision, and each network of convolutions in both memory formats."""
    for name, (build, convolutional) in MODELS.items():
        for precision in PRECISIONS:
            for last in (False, True) if convolutional else (False,):
                case = f"{name}, {precision}{', channels_last' if last else ''}"
                if options.only in case:
                    row = Row(case, precision)
                    with failing_softly(row):
                        train(options, row, build, precision, channels_last=last)
                    result.add(row)


def train(
    options: argparse.Namespace,
    row: Row,
    build: Callable[[bool], Training],
    precision: str,
    *,
    channels_last: bool,
) -> None:
    """Train for the steps asked for; note losses, gradients of step 0 and final weights in `row`."""
    import torch

    prepare(options)
    training = build(options.tiny)
    device = options.device
    form = torch.channels_last if channels_last else torch.contiguous_format
    model = training.model.to(device).train()
    if channels_last:
        model = model.to(memory_format=form)
    batches = [
        tuple(part.to(device).contiguous(memory_format=form) if part.dim() == 4 else part.to(device) for part in batch)
        for batch in training.batches
    ]
    optimizer = training.optimizer(model.parameters())
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    dtype = getattr(torch, PRECISIONS[precision])
    losses, warm_up = [], min(2, options.steps - 1)
    began = time.perf_counter()
    for step in range(options.steps):
        if step == warm_up:
            wait(device)
            began = time.perf_counter()
        with torch.autocast(device, dtype=dtype if precision != "fp32" else None, enabled=precision != "fp32"):
            loss = training.loss_of(model, *batches[step % len(batches)])
        scaler.scale(loss).backward()
        if step == 0:
            named = model.named_parameters()
            gradients = {name: digest(value.grad) for name, value in named if value.grad is not None}
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach().float())
    wait(device)
    taken = time.perf_counter() - began
    values = torch.stack(losses).cpu()
    weights = {name: digest(value) for name, value in model.state_dict().items()}
    row.digests = {"losses": digest(values), "gradients": digest_of(gradients), "weights": digest_of(weights)}
    row.more = {
        "ms": 1e3 * taken / (options.steps - warm_up),
        "first": float(values[0]),
        "last": float(values[-1]),
        "losses": [f"{bits & 0xFFFFFFFF:08x}" for bits in values.view(torch.int32).tolist()],
        "gradients": gradients,
        "weights": weights,
    }
    if scaler.is_enabled():
        row.more["scale"] = scaler.get_scale()


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


# Convolutions


@dataclass(frozen=True)
class Convolution:
    """The shape of one convolution, without bias and groups, as ResNet-50 has them."""

    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def __str__(self) -> str:
        """Return channels, kernel, stride and side of the input."""
        outer, inner, high, wide = self.weight
        return f"{inner}-{outer} {high}x{wide} stride {self.stride[0]} at {self.inputs[-1]}"


def convolutions_of(model: Any, batch: int, side: int) -> list[Convolution]:
    """Return a network's distinct convolutions, in the order in which a batch of images meets them."""
    import torch

    found: dict[Convolution, None] = {}

    def note(layer: Any, inputs: tuple[Any, ...], outputs: Any) -> None:
        entering, weight, leaving = (tuple(each.shape) for each in (inputs[0], layer.weight, outputs))
        found[Convolution(entering, weight, leaving, layer.stride, layer.padding)] = None

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(note)
    model.to("meta")(torch.empty(batch, 3, side, side, device="meta"))
    return list(found)


def convolutions(options: argparse.Namespace, result: Result) -> None:
    """Compute each convolution forward and backward in each precision and memory format; name the kernels."""
    import torch

    prepare(options)
    shapes = convolutions_of(resnet50_model(options.tiny), *((2, 32) if options.tiny else (64, 224)))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if options.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for number, shape in enumerate(shapes):
            random = torch.Generator().manual_seed(SEED + number)
            scale = (2 / (shape.weight[1] * shape.weight[2] * shape.weight[3])) ** 0.5
            tensors = (
                torch.randn(shape.inputs, generator=random),
                torch.randn(shape.weight, generator=random) * scale,
                torch.randn(shape.outputs, generator=random) * 0.01,
            )
            for precision, dtype in PRECISIONS.items():
                for last in (False, True):
                    group = f"{precision}{', channels_last' if last else ''}"
                    row = Row(f"{shape}, {group}", group)
                    if options.only in row.case:
                        form = torch.channels_last if last else torch.contiguous_format
                        with failing_softly(row):
                            moved = [
                                each.to(options.device, getattr(torch, dtype)).contiguous(memory_format=form)
                                for each in tensors
                            ]
                            convolve(row, shape, moved, options.device)
                            del moved
                        result.add(row)
    try:
        kernels = kernels_by_label(profiler.events())
    except Exception as error:
        print(f"the kernels have no names: {type(error).__name__}: {error}")
        return
    for row in result.rows:
        row.more["kernels"] = {what: kernels.get(f"{row.case}: {what}", []) for what in row.digests}
    used = sorted({name for names in kernels.values() for name in names})
    print(f"\n{len(used)} kernels:", *(shortened(name) for name in used), sep="\n  ")


def convolve(row: Row, shape: Convolution, tensors: list[Any], device: str) -> None:
    """Compute one convolution's three results, each under a label for the profiler."""
    import torch

    inputs, weight, slope = tensors
    sizes: list[Any] = [shape.stride, shape.padding, (1, 1)]

    def backward(*wanted: bool) -> Any:
        return torch.ops.aten.convolution_backward(slope, inputs, weight, None, *sizes, False, (0, 0), 1, wanted)

    computations: dict[str, Callable[[], Any]] = {
        "forward": lambda: torch.ops.aten.convolution(inputs, weight, None, *sizes, False, (0, 0), 1),
        "input gradient": lambda: backward(True, False, False)[0],
        "weight gradient": lambda: backward(False, True, False)[1],
    }
    for what, compute in computations.items():
        with torch.profiler.record_function(f"{row.case}: {what}"):
            computed = compute()
            wait(device)
        row.digests[what] = digest(computed)


def shortened(name: str, limit: int = 120) -> str:
    """Return a kernel's name without the middle of a long one, as templates give; the file has it in full."""
    half = (limit - 5) // 2
    return name if len(name) <= limit else f"{name[:half]} ... {name[-half:]}"


def kernels_by_label(events: Sequence[Any]) -> dict[str, list[str]]:
    """Return for each label of the profile the names of the kernels that ran; on a CPU, of the operators."""
    found: dict[str, list[str]] = {}
    for event in events:
        if ": " not in event.name or not event.cpu_children:
            continue
        below, kernels, operators = [event], [], []
        while below:
            each = below.pop(0)
            below[:0] = each.cpu_children
            kernels += [kernel.name for kernel in each.kernels if kernel.name != event.name]
            if each.name.startswith("aten::") and "conv" in each.name:
                operators.append(each.name)
        kernels = [name for name in kernels if not name.startswith(("Memset", "Memcpy"))]
        found[event.name] = kernels or operators
    return found


# Random numbers


# Around one wave of a card with 66 SMs (135,168 threads of 256 a block, 8 blocks an SM), of one with 132 (270,336) and
# of one with 40 SMs of half the threads (40,960).
SIZES = (1_000, 40_960, 40_961, 135_168, 135_169, 200_000, 270_336, 270_337, 1_000_000, 16_000_003)
TINY_SIZES = (1_000, 5_000)


def draws(device: str) -> dict[str, Callable[[int], Any]]:
    """Return what draws so many random numbers on the device, by name."""
    import torch
    from torch.nn import functional

    ramp = torch.linspace(0.1, 1.0, 1_000).to(device)
    half = {"dtype": torch.bfloat16, "device": device}
    return {
        "dropout fp32": lambda size: functional.dropout(torch.ones(size, device=device), 0.1),
        "dropout bf16": lambda size: functional.dropout(torch.ones(size, **half), 0.1),
        "rand fp32": lambda size: torch.rand(size, device=device),
        "randn fp32": lambda size: torch.randn(size, device=device),
        "randn bf16": lambda size: torch.randn(size, **half),
        "randint": lambda size: torch.randint(0, 50_257, (size,), device=device),
        "bernoulli": lambda size: torch.empty(size, device=device).bernoulli_(0.3),
        "bernoulli of tensor": lambda size: torch.bernoulli(ramp.repeat(size // 1_000 + 1)[:size]),
        "exponential": lambda size: torch.empty(size, device=device).exponential_(),
        "randperm": lambda size: torch.randperm(size, device=device),
        "multinomial, replaced": lambda size: torch.multinomial(ramp, size, replacement=True),
        "multinomial": lambda size: torch.multinomial(ramp.repeat(size // 1_000 + 1)[:size], 500),
    }


def dropout(options: argparse.Namespace, result: Result) -> None:
    """Draw everything; then again in child processes that are told of fewer SMs, and say what differs."""
    import torch

    prepare(options)
    # Some draws have no deterministic implementation by torch's book (they sum cumulatively); here they may run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    for name, draw in draws(options.device).items():
        for size in TINY_SIZES if options.tiny else SIZES:
            row = Row(f"{name}, {size:,}", name)
            if options.only in row.case:
                with failing_softly(row):
                    drawn(options, row, lambda draw=draw, size=size: [draw(size)])  # type: ignore[misc]
                result.add(row)
    attention_rows(options, result)
    if not result.quiet:
        as_told(options, result)


def drawn(options: argparse.Namespace, row: Row, draw: Callable[[], list[Any]]) -> None:
    """Seed, draw, and note the digest, where the generator then stands, and what it draws next."""
    import torch

    torch.manual_seed(SEED)
    found = [digest(each) for each in draw()]
    row.digests["drawn"] = found[0] if len(found) == 1 else digest_of({str(i): each for i, each in enumerate(found)})
    if options.device == "cuda":
        row.more["offset"] = torch.cuda.default_generators[0].get_offset()
    row.digests["drawn next"] = digest(torch.rand(256, device=options.device))


def attention_rows(options: argparse.Namespace, result: Result) -> None:
    """Compute attention with dropout, forward and backward; without it too, as its arithmetic may differ by itself."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    # With warnings only, torch would take the backward passes that differ from run to run.
    torch.use_deterministic_algorithms(True)
    backends = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
    shapes = [(1, 2, 32, 16)] if options.tiny else [(2, 12, 256, 64), (16, 12, 1024, 64)]
    for backend in backends:
        for precision, dtype in PRECISIONS.items():
            for shape in shapes:
                for share in (0.0, 0.1):
                    size = " x ".join(map(str, shape))
                    row = Row(f"attention {backend.lower()}, {precision}, {size}, p {share}", "attention")
                    if options.only not in row.case:
                        continue

                    def attend(
                        shape: tuple[int, ...] = shape, dtype: str = dtype, backend: str = backend, share: float = share
                    ) -> list[Any]:
                        random = torch.Generator().manual_seed(SEED)
                        query, key, value, slope = (
                            torch.randn(shape, generator=random).to(options.device, getattr(torch, dtype))
                            for _ in range(4)
                        )
                        leaves = [each.requires_grad_() for each in (query, key, value)]
                        with sdpa_kernel(getattr(SDPBackend, backend)):
                            mixed = scaled_dot_product_attention(*leaves, dropout_p=share)
                        return [mixed, *torch.autograd.grad(mixed, leaves, slope)]

                    with failing_softly(row):
                        drawn(options, row, attend)
                    result.add(row)


def as_told(options: argparse.Namespace, result: Result) -> None:
    """Measure in child processes told of fewer SMs, each way; the MPS daemon only if no preloaded library worked."""
    real = result.head["machine"]["sms"] or 0
    wanted = options.sms or real // 2
    worked = False
    for way in (*WAYS, MPS):
        if way == MPS and (worked or not real):
            continue
        told = told_result(options, way, wanted, real)
        if isinstance(told, str):
            print(f"\nby {way}: {told}", flush=True)
            continue
        seen = told["machine"]["sms"]
        changed = seen is not None and seen != real
        worked |= changed
        print(f"\nby {way}: torch sees {seen} SMs of {real}: {'CHANGED' if changed else 'not changed'}", flush=True)
        result.told.append({name: told[name] for name in ("machine", "rows")})
        if changed:
            print()
            report(result.content()["rows"], told["rows"], (f"{real} SMs", f"{seen} SMs"), everything=False)


def told_result(options: argparse.Namespace, way: str, wanted: int, real: int) -> dict[str, Any] | str:
    """Return the result of this part in a child that is told of `wanted` SMs, or why there is none."""
    with tempfile.TemporaryDirectory(prefix="reprobox-benchmark-") as name:
        out = Path(name) / "result.json"
        command = [sys.executable, __file__, "dropout", "--told", "--device", options.device, "--out", str(out)]
        command += ["--only", options.only, *(["--tiny"] if options.tiny else [])]
        try:
            with fewer_sms(way, wanted, real, Path(name)) as env:
                done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
            if done.returncode != 0:
                return f"exit {done.returncode}: {done.stderr[-500:]}"
            found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    return found


# Comparison


def compare(first: Path, second: Path, *, everything: bool) -> int:
    """Print what agrees in two result files of one part; return 1 if there is nothing to compare."""
    one, other = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    for what in ("part", "settings"):
        if one[what] != other[what]:
            print(f"nothing to compare: {what} is {one[what]} in {first}, {other[what]} in {second}", file=sys.stderr)
            return 1
    print(f"GPU portability: {one['part']}, {one['settings']}\n")
    machines = one["machine"] | other["machine"]
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    table([("", *names), *((key, *(str(each["machine"].get(key, "")) for each in (one, other))) for key in machines)])
    return 0 if report(one["rows"], other["rows"], names, everything=everything) else 1


def report(
    ones: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], names: tuple[str, str], *, everything: bool
) -> bool:
    """Print the cases, what is known of each difference, and a summary; return whether anything was compared."""
    by_case = {row["case"]: row for row in others}
    pairs = [(row, by_case[row["case"]]) for row in ones if row["case"] in by_case]
    judged = [(one, other, verdicts(one, other)) for one, other in pairs]
    if not any(found for _, _, found in judged):
        print("nothing to compare: no case has a result on both sides", file=sys.stderr)
        return False
    kinds = list(dict.fromkeys(kind for _, _, found in judged for kind in found))
    times = any("ms" in one["more"] for one, _, _ in judged)
    few = everything or len(judged) <= 30
    shown = [each for each in judged if few or set(each[2].values()) != {AGREES}]
    rows = [("case", *kinds, *(f"ms, {name}" for name in names if times))]
    for one, other, found in shown:
        milliseconds = [f"{row['more'].get('ms', float('nan')):.1f}" for row in (one, other) if times]
        rows.append((one["case"], *(found.get(kind, "-") for kind in kinds), *milliseconds))
    if len(rows) > 1:
        table(rows)
    for one, other, found in shown:
        for line in details(one, other, found, names):
            print(f"{one['case']}: {line}")
    if len(shown) < len(judged):
        print(f"{len(judged) - len(shown)} cases that agree are not listed (compare --all lists them)")
    print()
    summary = [("in full agreement", "cases", *kinds)]
    for group in dict.fromkeys(one["group"] for one, _, _ in judged):
        members = [found for one, _, found in judged if one["group"] == group and found]
        summary.append((group, _share(members), *(_share([{kind: f[kind]} for f in members]) for kind in kinds)))
    members = [found for _, _, found in judged if found]
    summary.append(("all", _share(members), *(_share([{kind: f[kind]} for f in members]) for kind in kinds)))
    table(summary)
    lost = len({row["case"] for row in (*ones, *others)}) - len(members)
    if lost:
        print(f"{lost} cases without a result on both sides")
    return True


def verdicts(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """Return for each kind of digest whether it agrees; empty where a side has an error."""
    if one["error"] or other["error"]:
        return {}
    return {kind: AGREES if value == other["digests"].get(kind) else DIFFERS for kind, value in one["digests"].items()}


def _share(members: Sequence[Mapping[str, str]]) -> str:
    return f"{sum(set(found.values()) == {AGREES} for found in members)} of {len(members)}"


def details(
    one: Mapping[str, Any], other: Mapping[str, Any], found: Mapping[str, str], names: tuple[str, str]
) -> Iterator[str]:
    """Yield what the files tell of the differences of one case: errors, first step, parameters, kernels, offsets."""
    errors = {name: row["error"] for name, row in zip(names, (one, other), strict=True) if row["error"]}
    if one["error"] == other["error"] and errors:
        errors = {"both": one["error"]}
    yield from (f"{name}: {error}" for name, error in errors.items())
    mine, theirs = one["more"], other["more"]
    for kind in (kind for kind, verdict in found.items() if verdict == DIFFERS):
        if kind in mine.get("kernels", {}):
            each = [[shortened(name) for name in row.get("kernels", {}).get(kind, [])] for row in (mine, theirs)]
            kernels = [" + ".join(found) or "unknown" for found in each]
            yield f"{kind}: {kernels[0] if kernels[0] == kernels[1] else f'{kernels[0]} AGAINST {kernels[1]}'}"
        elif isinstance(mine.get(kind), dict):
            unequal = [name for name, value in mine[kind].items() if theirs[kind].get(name) != value]
            yield f"{len(unequal)} of {len(mine[kind])} {kind}, {unequal[0] if unequal else ''} first in the model"
        elif isinstance(mine.get(kind), list):
            unequal = [str(i) for i, pair in enumerate(zip(mine[kind], theirs[kind], strict=True)) if len({*pair}) > 1]
            yield f"{kind} from step {unequal[0]} on ({len(unequal)} of {len(mine[kind])})"
    if DIFFERS in found.values() and mine.get("offset") != theirs.get("offset"):
        yield f"the generator stands at {mine['offset']} AGAINST {theirs['offset']}"


if __name__ == "__main__":
    sys.exit(main())

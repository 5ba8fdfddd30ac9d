"""A small U-Net as diffusion models have it, for the benchmarks: it predicts an image's noise from the time step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UNet"]


class Residual(nn.Module):
    """Two normalised convolutions beside a short cut; the embedded time step is added between them."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        """Take `inputs` channels to `outputs`."""
        super().__init__()
        self.first_norm = nn.GroupNorm(min(32, inputs), inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.second_norm = nn.GroupNorm(min(32, outputs), outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short_cut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Return the image with as many channels as this block puts out."""
        hidden = self.first(functional.silu(self.first_norm(image)))
        hidden = hidden + self.time(functional.silu(time))[:, :, None, None]
        hidden = self.second(functional.silu(self.second_norm(hidden)))
        return hidden + self.short_cut(image)


class Attention(nn.Module):
    """Self-attention among the pixels, in heads of `head` channels."""

    def __init__(self, channels: int, head: int) -> None:
        """Keep `channels` as they are."""
        super().__init__()
        self.heads = channels // head
        self.norm = nn.GroupNorm(min(32, channels), channels)
        self.inner = nn.Conv2d(channels, 3 * channels, 1)
        self.outer = nn.Conv2d(channels, channels, 1)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Return the image with what its pixels learnt of each other added; `time` is not used."""
        batch, channels, height, width = image.shape
        pixels = self.inner(self.norm(image)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = (part.transpose(-1, -2) for part in pixels.unbind(1))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return image + self.outer(mixed.transpose(-1, -2).reshape(batch, channels, height, width))


class UNet(nn.Module):
    """Residual blocks on the way down and up again, joined level by level; attention below the first level."""

    def __init__(self, widths: Sequence[int] = (128, 256, 256), blocks: int = 2, head: int = 64) -> None:
        """Have one level per width, each half as high and wide as the one above it."""
        super().__init__()
        self.base = widths[0]
        embedding = 4 * self.base
        self.embed = nn.Sequential(nn.Linear(self.base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.enter = nn.Conv2d(3, self.base, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        channels, kept = self.base, []
        for level, width in enumerate(widths):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(_stage(channels, width, embedding, head if level else 0))
                channels = width
                kept.append(channels)
            self.down.append(stage)
            last = level == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        self.middle = _stage(channels, channels, embedding, head)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(_stage(channels + kept.pop(), width, embedding, head if level else 0))
                channels = width
            self.up.append(stage)
            self.grow.append(nn.Conv2d(channels, channels, 3, padding=1) if level else nn.Identity())
        self.leave = nn.Sequential(
            nn.GroupNorm(min(32, channels), channels), nn.SiLU(), nn.Conv2d(channels, 3, 3, padding=1)
        )

    def forward(self, image: Tensor, steps: Tensor) -> Tensor:
        """Return the predicted noise. `steps` holds each image's time step, a whole number."""
        half = self.base // 2
        rates = torch.exp(torch.arange(half, device=image.device) * (-math.log(10_000.0) / half))
        angles = steps[:, None].float() * rates
        time = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        hidden, kept = self.enter(image), []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            for block in stage:
                hidden = _through(block, hidden, time)
                kept.append(hidden)
            hidden = shrink(hidden)
        hidden = _through(self.middle, hidden, time)
        for stage, grow in zip(self.up, self.grow, strict=True):
            for block in stage:
                hidden = _through(block, torch.cat([hidden, kept.pop()], dim=1), time)
            if not isinstance(grow, nn.Identity):
                hidden = grow(functional.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        return self.leave(hidden)


def _stage(inputs: int, outputs: int, embedding: int, head: int) -> nn.ModuleList:
    blocks: list[nn.Module] = [Residual(inputs, outputs, embedding)]
    if head:
        blocks.append(Attention(outputs, head))
    return nn.ModuleList(blocks)


def _through(blocks: nn.ModuleList, image: Tensor, time: Tensor) -> Tensor:
    for block in blocks:
        image = block(image, time)
    return image

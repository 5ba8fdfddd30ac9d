"""The optimizers of a process: what each optimizes, and the digest of what all of them arrived at."""

from __future__ import annotations

from typing import Any


class Tracked:
    """The parameters of one optimizer, numbered as first seen, until their digest is taken.

    `steps` counts its steps, `blind` those of them since whose predecessor no loss was seen.
    """

    def __init__(self, ordinal: int, kind: str) -> None:
        """Track optimizer number `ordinal` of that type, or parameters that none optimizes."""
        self.ordinal = ordinal
        self.kind = kind
        self.digest: str | None = None
        self.parameters: list[Any] = []
        self.steps = 0
        self.blind = 0
        self.losses = 0
        self.groups = 0

    def remember(self, groups: list[Any]) -> None:
        """Hold the parameters of an optimizer's `param_groups`."""
        self.groups = len(groups)
        self.parameters = [parameter for group in groups for parameter in group["params"]]

    def settle(self) -> None:
        """Take the digest, once, and let the parameters go."""
        if self.digest is None:
            from .weights import digest_tensors

            self.digest = digest_tensors(self.parameters)
            self.parameters = []


def combined_digest(digests: list[str | None]) -> str | None:
    """Return one digest for the optimizers' digests in order; None when there are none or one is missing."""
    known = [digest for digest in digests if digest is not None]
    if not known or len(known) < len(digests):
        return None
    import hashlib

    return "sha256:" + hashlib.sha256("\n".join(known).encode()).hexdigest()

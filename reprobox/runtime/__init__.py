"""What lives inside the training process: seeding, determinism, data loaders, the recorder.

Standard library only, Python 3.9 and later: this folder is mounted into containers that hold nothing else of reprobox.
torch and NumPy are touched only after the user's own program has imported them, or when it calls for what needs them.

The names below are the explicit API (`docs/api.md`), for programs that want to say what they mean; it works inside and
outside a run. Nothing is imported before a name is used: every Python process of a run starts with this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration import TrainingConfig as TrainingConfig
    from .explicit import create_reproducible_dataloader as create_reproducible_dataloader
    from .explicit import create_seeded_generator as create_seeded_generator
    from .explicit import seed_worker as seed_worker
    from .explicit import set_random_seed as set_random_seed
    from .metrics import log as log
    from .verification import Verification as Verification
    from .verification import verify_reproducibility as verify_reproducibility

_HOMES = {
    "TrainingConfig": "configuration",
    "create_reproducible_dataloader": "explicit",
    "create_seeded_generator": "explicit",
    "seed_worker": "explicit",
    "set_random_seed": "explicit",
    "log": "metrics",
    "Verification": "verification",
    "verify_reproducibility": "verification",
}
__all__ = [  # noqa: RUF022 - in the order in which docs/api.md explains them
    "set_random_seed",
    "seed_worker",
    "create_seeded_generator",
    "create_reproducible_dataloader",
    "verify_reproducibility",
    "Verification",
    "TrainingConfig",
    "log",
]


def __getattr__(name: str) -> Any:
    """Import a name of the explicit API when it is first asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    import importlib

    value = globals()[name] = getattr(importlib.import_module("." + home, __name__), name)
    return value


def __dir__() -> list[str]:
    """List the explicit API too."""
    return sorted({*globals(), *_HOMES})

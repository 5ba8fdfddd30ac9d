"""Switches the runtime on: reads what the host asked for, seeds, and waits for torch."""

from __future__ import annotations

import atexit
import json
import os
from typing import Any, Callable

from . import (
    current,
    determinism,
    entropy,
    hooks,
    inner,
    loaders,
    loggers,
    processes,
    protocol,
    seeding,
    unseeded,
    worker_states,
)
from .recorder import Recorder

# Where a program imports one of these first, torch is imported, and hooked, in the middle of it.
_IMPORT_TORCH = (
    "accelerate.accelerator",
    "lightning.pytorch.loops.optimization.automatic",
    "pytorch_lightning.loops.optimization.automatic",
)
_started: list[Recorder] = []


def start(folder: str) -> None:
    """Start the runtime in this process, once, recording into `folder`. Called by the start file."""
    if _started:
        return
    with open(os.path.join(folder, protocol.CONFIG_FILE), encoding="utf-8") as handle:
        config = json.load(handle)
    seed = config["seed"]
    by_batch = config.get("loader_seeding") == protocol.SEED_BATCHES
    # Also where the program gave its child an environment of its own: the libraries read them when they load.
    for name, value in config.get("variables", {}).items():
        os.environ.setdefault(name, value)
    recorder = Recorder(folder, config.get("digest_every", protocol.DEFAULT_DIGEST_EVERY))
    _started.append(recorder)
    _finish_before_exit(recorder)

    def guarded(function: Callable[..., None], *arguments: Any) -> Callable[[Any], None]:
        def callback(module: Any) -> None:
            try:
                function(module, *arguments)
            except Exception as error:  # never into the user's import
                recorder.warn("%s: %s: %s" % (module.__name__, type(error).__name__, error))

        return callback

    hooks.after_import("random", guarded(seeding.seed_random, seed))
    hooks.after_import("numpy.random", guarded(seeding.seed_numpy, seed))
    watched = loaders.Loaders(seed, by_batch, recorder.data_loaders, recorder.warn)
    hooks.after_import("torch.utils.data.dataloader", guarded(watched.patch))
    hooks.after_import("torch.utils.data._utils.worker", guarded(loaders.seed_numpy_in_workers))
    hooks.after_import("torch.utils.data._utils.fetch", guarded(worker_states.patch, folder, watched))
    hooks.after_import("torch", guarded(_warm_up))
    hooks.after_import("torch", guarded(seeding.seed_torch, seed))
    hooks.after_import("torch", guarded(determinism.apply, config["deterministic"], config["threads"]))
    hooks.after_import("torch", guarded(_attach, recorder))
    for name in processes.COMPUTING:
        hooks.after_import(name, guarded(processes.note_loaded, folder))
    loggers.Loggers(recorder).install()
    for name in _IMPORT_TORCH:
        hooks.expect(name)
    # After the seeding above, so that the audit does not see it.
    audit = entropy.Audit(folder, seed)
    streams = unseeded.Streams(seed)
    unseeded.install(streams, audit)
    audit.install()
    current.run = current.Run(seed, config["deterministic"], recorder, streams, audit)
    inner.install()
    hooks.stay_first()
    processes.note_launches(folder)
    atexit.register(processes.note_missed, folder)
    # Last: what is registered is seeded and recorded. The first process of a run is the program itself, which reports
    # facts even when it trains nothing.
    recorder.root = processes.register(folder)


def _finish_before_exit(recorder: Recorder) -> None:
    """Have the record finished also where a program that is done ends by `os._exit(0)`, which runs no atexit handlers.

    Not with another status: a program that gives up because a device hangs must not wait for that device.
    """

    def ended(status: int) -> None:
        if status == 0:
            recorder.finish()

    os._exit = hooks.preceded(os._exit, ended)
    os._exit.__module__ = "os"  # where pickle finds it


def _warm_up(torch: Any) -> None:
    from . import warmup  # as below

    warmup.call_vector_functions(torch)


def _attach(torch: Any, recorder: Recorder) -> None:
    from . import capture, explain  # most Python processes that start the runtime never load torch

    capture.attach(torch, recorder)
    explain.install(torch, recorder.warn)

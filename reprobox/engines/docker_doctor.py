"""What `reprobox doctor` can say about a Docker engine: what works, and what to do about what does not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from reprobox.engines.docker_calls import Calls, DockerRefusedError, remove
from reprobox.engines.docker_plan import container_name, gpu_access, is_podman, labels
from reprobox.engines.nvidia import find_driver
from reprobox.engines.owner import this_process
from reprobox.errors import EngineError

# An image with PyTorch for CUDA takes about 6 GB, as layers and once more while it is loaded.
_SPACE_WANTED = 15 * 10**9

# A reference that no image has (repository names of this form are not given out), so that nothing can be created.
_NO_IMAGE = "reprobox.invalid/none:none"


class Check(NamedTuple):
    """One line of the report: the `check`, whether it is `ok`, the finding as `text`, and a `hint` where it is not."""

    check: str
    ok: bool
    text: str
    hint: str | None


def examine(calls: Calls, address: str) -> list[Check]:
    """Check the daemon that answers at `address`. Raises EngineError when it stops answering."""
    facts = calls.facts()
    product = "Podman" if is_podman(facts) else "Docker"
    return [
        Check("docker", True, f"{product} {facts.get('ServerVersion')} answers at {address}", None),
        _storage(facts),
        _space(facts),
        _limits(facts),
        _mounts(calls),
        _gpus(facts),
    ]


def _storage(facts: Mapping[str, Any]) -> Check:
    driver = facts.get("Driver")
    if driver != "vfs":
        return Check("docker storage", True, f"storage driver {driver}", None)
    return Check(
        "docker storage",
        False,
        "storage driver vfs, which copies the whole image for each layer and each container",
        "Let it use overlay: storage.conf of Podman (driver), daemon.json of Docker (storage-driver). It then starts "
        "with an empty store.",
    )


def _space(facts: Mapping[str, Any]) -> Check:
    root = str(facts.get("DockerRootDir", ""))
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return Check("docker disk", True, f"{root} cannot be seen from here, so its free space is unknown", None)
    enough = free >= _SPACE_WANTED
    hint = None if enough else "Free some: `docker system prune` removes what no container uses."
    return Check("docker disk", enough, f"{free / 1e9:.0f} GB free in {root}", hint)


def _limits(facts: Mapping[str, Any]) -> Check:
    names = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPUs"}
    missing = [text for key, text in names.items() if not facts.get(key, True)]
    if not missing:
        return Check("docker limits", True, "memory, processes and CPUs can be limited", None)
    return Check(
        "docker limits",
        False,
        f"this engine cannot limit {', '.join(missing)}",
        "Enable these cgroup controllers; to an ordinary user's engine cgroups v2 must delegate them.",
    )


def _mounts(calls: Calls) -> Check:
    """Ask for a container of an image that does not exist, with a folder that does: mounts are looked at first."""
    name = container_name("doctor")
    with tempfile.TemporaryDirectory(prefix="reprobox-doctor-") as folder:
        config = {
            "Image": _NO_IMAGE,
            "Labels": labels("doctor", this_process()),
            "HostConfig": {"Mounts": [{"Type": "bind", "Source": folder, "Target": "/seen", "ReadOnly": True}]},
        }
        try:
            with calls.asking("checking whether it sees this machine's files"):
                calls.api.create_container_from_config(config, name=name)
        except DockerRefusedError as error:
            if "bind source path" in error.words:
                return Check(
                    "docker mounts",
                    False,
                    f"the engine does not see {Path(folder).parent} of this machine",
                    "It runs elsewhere: share the project's and the cache's folders with it, or use a local engine.",
                )
            if error.status != 404:
                return Check("docker mounts", False, error.words, None)
        else:
            remove(calls, name)
    return Check("docker mounts", True, "the engine sees this machine's files", None)


def _gpus(facts: Mapping[str, Any]) -> Check:
    access = gpu_access(facts, find_driver())
    if access != "none":
        return Check("docker gpu", True, f"GPUs can be passed ({access})", None)
    if not Path("/dev/nvidiactl").exists():
        return Check("docker gpu", True, "no NVIDIA GPU on this machine", None)
    return Check(
        "docker gpu",
        False,
        "this machine has an NVIDIA GPU, but the engine cannot pass it",
        "Install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker` and restart "
        "Docker.",
    )


def unavailable(error: EngineError) -> list[Check]:
    """Return the report on an engine that does not answer."""
    return [Check("docker", False, error.message, error.hint)]

"""What the docker engine asks its daemon for: from a Plan to the body of `POST /containers/create`, without a daemon.

Field names and meanings: Docker Engine API v1.41, https://docs.docker.com/reference/api/engine/version/v1.41/.
"""

from __future__ import annotations

import os
import re
import resource
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reprobox import inside
from reprobox.engines.interface import Plan, pythonpath
from reprobox.engines.nvidia import Driver
from reprobox.engines.start_file import PTH_FILE, START_FOLDER
from reprobox.errors import EngineError

# By these Python leaves no bytecode in the user's folder, and writes output as it comes.
PYTHON_VARIABLES = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}

_HOST_NAME = "reprobox"
# Without a network the engine does not say where the machine's own name leads, and whoever looks it up (torchrun, so
# that its processes meet) waits for name servers that are not there, for minutes.
_NO_NETWORK = {"NetworkMode": "none", "ExtraHosts": [f"{_HOST_NAME}:127.0.0.1"]}

RUN_LABEL = "org.reprobox.run"
OWNER_LABEL = "org.reprobox.owner"
# Of a container that may outlive its owner.
KEEP_LABEL = "org.reprobox.keep-running"

# Who the program is when the caller is root: the first ordinary user of common distributions, so without any right.
UNPRIVILEGED = (1000, 1000)

# Threads count as well: eight loader workers with a dozen threads each stay far below, a fork bomb does not.
PIDS_LIMIT = 4096

# The kernel's default number of process IDs (proc(5), /proc/sys/kernel/pid_max).
_KERNEL_IDS = 32768


@dataclass(frozen=True, kw_only=True)
class GpuChoice:
    """How GPUs reach a program: `access` as recorded (`none`, `toolkit`, `cdi`, `devices`), the parts of HostConfig for
    it, further `mounts`, and the folder that `libraries` must be looked for in, if any.
    """

    access: str = "none"
    host_config: Mapping[str, Any] = field(default_factory=dict)
    mounts: tuple[dict[str, Any], ...] = ()
    libraries: str | None = None


def is_podman(info: Mapping[str, Any]) -> bool:
    """Say whether Podman answers Docker's API there: `GET /info` tells the Buildah that it is built on."""
    return "BuildahVersion" in info


def podman_limits(info: Mapping[str, Any]) -> dict[str, bool]:
    """Return which limits Podman keeps, by its own answer `info` (`GET /libpod/info`), in Docker's names for them.

    What it says of them to Docker's question holds for root alone: an ordinary user has the controllers of cgroups v2
    that are delegated to him, and none of v1. Where one is missing, a limit is an error or passed over.
    """
    controllers = info["host"]["cgroupControllers"] or ()
    names = {"MemoryLimit": "memory", "PidsLimit": "pids", "CpuCfsQuota": "cpu"}
    return {name: controller in controllers for name, controller in names.items()}


def is_containerd_store(info: Mapping[str, Any]) -> bool:
    """Say whether the daemon that answered `info` keeps its images in containerd, as a new Docker 29 does."""
    return ("driver-type", "io.containerd.snapshotter.v1") in [tuple(entry) for entry in info.get("DriverStatus") or ()]


def finds_layers(info: Mapping[str, Any]) -> bool:
    """Say whether the daemon that answered `info` completes an archive from layers that it holds already.

    Docker's classic store looks layers up by the chain of their digests (moby, image/tarexport/load.go), its containerd
    store by the digest of each as it was sent (daemon/containerd/image_exporter.go). Podman wants every archive whole.
    """
    return not is_podman(info)


def gpu_access(info: Mapping[str, Any], driver: Driver | None = None) -> str:
    """Return how this daemon (its answer to `GET /info`) can pass NVIDIA GPUs: `toolkit`, `cdi`, `devices` or `none`.

    Without NVIDIA's toolkit the device files and the libraries of this machine's `driver` are passed one by one.
    Source: NVIDIA Container Toolkit, installation guide (runtime `nvidia`) and CDI support (`nvidia.com/gpu`).
    """
    if "nvidia" in (info.get("Runtimes") or {}):
        return "toolkit"
    devices = info.get("DiscoveredDevices") or ()
    if any(str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in devices):
        return "cdi"
    return "none" if driver is None else "devices"


def choose_gpus(wanted: str, info: Mapping[str, Any], driver: Driver | None = None) -> GpuChoice:
    """Decide how the GPUs that a plan wants (`none`, `all`, `0,1`) are passed by the daemon that answered `info`.

    Raises EngineError when GPUs are wanted and the daemon cannot pass any, or when `wanted` cannot be read.
    """
    if wanted == "none":
        return GpuChoice()
    if wanted != "all" and not re.fullmatch(r"\d+(,\d+)*", wanted):
        raise EngineError(f"gpus: {wanted!r} names no GPUs", details=("expected: none, all or indices such as 0,1",))
    access = gpu_access(info, driver)
    if access == "none":
        raise EngineError(
            f"GPUs are asked for ({wanted}), but this Docker engine cannot pass any",
            details=(
                "looked for: the runtime `nvidia`, CDI devices `nvidia.com/gpu`, the driver's devices and libraries",
            ),
            hint="Install the NVIDIA Container Toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker` and "
            "restart Docker; or use `--engine local`; or ask for no GPUs.",
        )
    indices = [] if wanted == "all" else wanted.split(",")
    if access == "devices" and driver is not None:
        return _passed_by_device(wanted, [int(index) for index in indices] or None, driver)
    if access == "cdi":
        names = [f"nvidia.com/gpu={index}" for index in indices or ["all"]]
        request: dict[str, Any] = {"Driver": "cdi", "DeviceIDs": names}
    else:
        request = {"Driver": "nvidia", "Capabilities": [["gpu", "compute", "utility"]]}
        request |= {"DeviceIDs": indices} if indices else {"Count": -1}
    return GpuChoice(access=access, host_config={"DeviceRequests": [request]})


def _passed_by_device(wanted: str, indices: list[int] | None, driver: Driver) -> GpuChoice:
    try:
        devices = driver.devices(indices)
    except IndexError:
        raise EngineError(f"GPU {wanted} is asked for, but this machine has {len(driver.gpus)}") from None
    return GpuChoice(
        access="devices",
        host_config={
            "Devices": [{"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"} for path in devices]
        },
        mounts=tuple(_bind(path, f"{inside.DRIVER}/{name}", read_only=True) for name, path in driver.libraries),
        libraries=inside.DRIVER,
    )


def container_name(run_id: str) -> str:
    """Return a name for a container: allowed characters only, and never the same twice."""
    return f"reprobox-{re.sub(r'[^A-Za-z0-9_.-]+', '-', run_id)}-{secrets.token_hex(4)}"


def container_user(info: Mapping[str, Any], caller: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the user and group that the program runs as in a container of the daemon that answered `info`.

    It is the caller, so that files are the caller's on both sides; an unprivileged user where the caller is root. In a
    rootless engine 0 stands for the (ordinary) user whose engine it is, and every other number for nobody of this
    machine, so there it is 0. Source: https://docs.docker.com/engine/security/rootless/.
    """
    if info.get("Rootless") or any(option == "name=rootless" for option in info.get("SecurityOptions") or ()):
        return (0, 0)
    user, group = caller or (os.getuid(), os.getgid())
    return UNPRIVILEGED if user == 0 else (user, group)


def image_path(image_env: Sequence[str]) -> str:
    """Return the PATH among an image's `NAME=value` lines, or Docker's default."""
    found = [line.partition("=")[2] for line in image_env if line.startswith("PATH=")]
    return found[-1] if found else inside.DEFAULT_PATH


def library_path(folder: str, image_env: Sequence[str]) -> str:
    """Return an LD_LIBRARY_PATH with `folder` before what the image has there."""
    found = [line.partition("=")[2] for line in image_env if line.startswith("LD_LIBRARY_PATH=")]
    return ":".join([folder, *found])


def program_environment(plan: Plan, image_env: Sequence[str], gpus: GpuChoice) -> dict[str, str]:
    """Return the variables that a program sees beside those of its image. Those of the plan win over where libraries
    are.
    """
    libraries = {}
    if gpus.libraries is not None:
        libraries["LD_LIBRARY_PATH"] = library_path(gpus.libraries, image_env)
        # Triton asks `ldconfig -p` first, which knows what the image was built with and fails where the image has no
        # cache of it. Source: triton/backends/nvidia/driver.py, `libcuda_dirs`.
        libraries["TRITON_LIBCUDA_PATH"] = gpus.libraries
    return {
        **libraries,
        **plan.env,
        "PATH": f"{inside.ENVIRONMENT}/bin:{image_path(image_env)}",
        "HOME": inside.TEMPORARY,
        "TMPDIR": inside.TEMPORARY,
        **PYTHON_VARIABLES,
        **pythonpath(plan.pythonpath, inside.WORK),
    }


def labels(run_id: str, owner: str) -> dict[str, str]:
    """Return the labels by which `sweep` knows a container and the process that it belongs to."""
    return {RUN_LABEL: run_id, OWNER_LABEL: owner}


def _confinement(memory: int | None, user: tuple[int, int], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of HostConfig that hold for every container: no rights, no log on disk, nothing writable."""
    # In memory like /dev/shm, and counted towards the memory limit: half of that, the kernel's own rule for a machine.
    size = f",size={memory // 2}" if memory else ""
    # With an owner, because runc gives the mount the mode of the image's own folder instead of the one asked for.
    # Podman takes no owner, and gives the mode.
    owner = "" if is_podman(info) else f",uid={user[0]},gid={user[1]}"
    return {
        "Init": True,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        **({"PidsLimit": PIDS_LIMIT} if info.get("PidsLimit", True) else {}),
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, *(_callers_limits() if is_podman(info) else ())],
        "Tmpfs": {inside.TEMPORARY: f"rw,exec,nosuid,nodev,mode=1777{owner}{size}"},
        # Output is read from an attached stream as it comes; a log would keep it a second time on the engine's disk.
        "LogConfig": {"Type": "none", "Config": {}},
    }


def _callers_limits() -> list[dict[str, Any]]:
    """Return the caller's own limits on open files and processes, the latter at most as many as the kernel has IDs for.

    Where a request names none, Podman asks for 1048576 of each (pkg/specgen/generate), which a machine that limits root
    itself refuses; and it limits its own processes to the kernel's IDs (cmd/podman/early_init_linux.go).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    processes = _KERNEL_IDS if allowed == resource.RLIM_INFINITY else min(allowed, _KERNEL_IDS)
    return [
        {"Name": "nofile", "Soft": soft, "Hard": hard},
        {"Name": "nproc", "Soft": processes, "Hard": processes},
    ]


def _bind(source: object, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def start_source(site: Path, point: str) -> Path:
    """Return what belongs at a start point (see `Plan`): the folder with the start file, or the `.pth` file."""
    return site / (PTH_FILE if point.endswith(".pth") else START_FOLDER)


def plan_to_container(
    plan: Plan,
    *,
    info: Mapping[str, Any],
    image_env: Sequence[str],
    owner: str,
    user: tuple[int, int],
    gpus: GpuChoice,
) -> dict[str, Any]:
    """Return the body of the create request for `plan` at the daemon that answered `info`."""
    host_config = _confinement(plan.memory, user, info) | {
        **({"NetworkMode": "bridge"} if plan.network else _NO_NETWORK),
        "Mounts": [
            _bind(plan.work.absolute(), inside.WORK, read_only=False),
            _bind(plan.record.absolute(), inside.RECORD, read_only=False),
            _bind(plan.site.absolute(), inside.SITE, read_only=True),
            *(_bind(start_source(plan.site.absolute(), point), point, read_only=True) for point in plan.start_points),
            *(_bind(m.source.resolve(), f"{inside.WORK}/{m.target}", read_only=True) for m in plan.data),
            *gpus.mounts,
        ],
        **gpus.host_config,
    }
    if plan.memory is not None and info.get("MemoryLimit", True):
        # Swap equal to memory means no swap at all: a training that pages is a training that hangs.
        host_config |= {"Memory": plan.memory, "MemorySwap": plan.memory}
    if plan.shm is not None:
        host_config["ShmSize"] = plan.shm
    if plan.cpus is not None and plan.cpus <= info.get("NCPU", 0) and info.get("CpuCfsQuota", True):
        # A daemon refuses more than it has; the number of threads, which is part of the bits, holds all the same.
        host_config["NanoCpus"] = plan.cpus * 10**9
    environment = program_environment(plan, image_env, gpus)
    if plan.gpus == "none" and "nvidia" in (info.get("Runtimes") or {}):
        # Where `nvidia` is the default runtime, CUDA images ask for every GPU themselves.
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    return _request(plan.environment, plan.command, user) | {
        "WorkingDir": inside.WORK,
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels(plan.run_id, owner),
        "HostConfig": host_config,
    }


def once_to_container(
    image: str,
    command: tuple[str, ...],
    *,
    info: Mapping[str, Any],
    owner: str,
    user: tuple[int, int],
    gpus: GpuChoice | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Return the body of the create request for one command in `image`, with no network.

    Nothing of the user's is there but `folder`, which the command may write.
    """
    chosen = gpus or GpuChoice()
    libraries = [] if chosen.libraries is None else [f"LD_LIBRARY_PATH={chosen.libraries}"]
    mounts = list(chosen.mounts)
    if folder is not None:
        mounts.append(_bind(folder.absolute(), inside.WORK, read_only=False))
    return _request(image, command, user) | {
        "Env": [f"HOME={inside.TEMPORARY}", f"TMPDIR={inside.TEMPORARY}", *libraries],
        "Labels": labels("once", owner),
        "HostConfig": _confinement(None, user, info)
        | {**_NO_NETWORK, **({"Mounts": mounts} if mounts else {}), **chosen.host_config},
    }


def _request(image: str, command: tuple[str, ...], user: tuple[int, int]) -> dict[str, Any]:
    return {
        "Image": image,
        # As the entry point, so that an image's own entry point does not come before the command.
        "Entrypoint": list(command),
        "Cmd": [],
        # Nothing of the image's own runs beside the program and takes time from it.
        "Healthcheck": {"Test": ["NONE"]},
        "User": f"{user[0]}:{user[1]}",
        "Hostname": _HOST_NAME,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "OpenStdin": False,
        "StopTimeout": 1,
    }


def limits_ignored(plan: Plan, info: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which limits of `plan` the daemon that answered `info` cannot keep, a sentence each."""
    ignored = []
    if plan.memory is not None and not info.get("MemoryLimit", True):
        ignored.append("this Docker engine cannot limit memory, so the memory limit is not kept")
    if plan.cpus is not None and plan.cpus > info.get("NCPU", 0):
        ignored.append(f"{plan.cpus} threads run on the {info.get('NCPU')} CPUs that this Docker engine has")
    return tuple(ignored)

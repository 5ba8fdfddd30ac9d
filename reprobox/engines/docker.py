"""The docker engine: programs in containers, images in the engine's store. Only this module knows the docker SDK."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import reprobox
from reprobox import inside
from reprobox.engines.docker_calls import DockerLostError, DockerRefusedError, remove
from reprobox.engines.docker_doctor import Check, examine, unavailable
from reprobox.engines.docker_images import DockerImages
from reprobox.engines.docker_plan import (
    KEEP_LABEL,
    OWNER_LABEL,
    RUN_LABEL,
    GpuChoice,
    choose_gpus,
    container_name,
    container_user,
    gpu_access,
    image_path,
    is_podman,
    limits_ignored,
    plan_to_container,
    podman_limits,
)
from reprobox.engines.docker_run import ContainerExecution, lent, running
from reprobox.engines.interface import EngineInfo, Left, Plan
from reprobox.engines.nvidia import find_driver
from reprobox.engines.owner import is_gone, this_process
from reprobox.engines.start_file import write_start_files
from reprobox.engines.targets import mount_points
from reprobox.engines.watchdog import watched
from reprobox.errors import EngineError, EngineUnavailableError, ImageError, system_cause
from reprobox.validation import printable

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

# How long a program goes on whose reprobox has died: short beside a training, and time enough to see what happened.
ORPHAN_SECONDS = 60.0
# How long it may then take to end by itself, as it is asked to first.
_STOP_SECONDS = 10
# Python's words for `end_orphan`, in a process that knows nothing but where reprobox lies.
_END_ORPHAN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from reprobox.engines.docker import end_orphan; "
    "end_orphan(*sys.argv[1:])"
)

_RUNNING = ("running", "paused", "restarting")

# Whether an engine answers at all is known soon; loading an image of many gigabytes takes its time.
_GREETING_SECONDS = 10
_ANSWER_SECONDS = 1800


class Connection:
    """A connection to a daemon (see `docker_calls.Calls`); `address` is where it answers."""

    def __init__(self, address: str | None = None) -> None:
        """Connect, to the daemon at `address` alone if one is given.

        Raises EngineUnavailableError, with what to do, when no daemon answers.
        """
        self.api, self.address = _connect(address)
        self._facts: Mapping[str, Any] | None = None
        # The SDK leaves its sockets to the garbage collector, which complains about them.
        weakref.finalize(self, self.api.close)

    @contextlib.contextmanager
    def asking(self, doing: str) -> Iterator[None]:
        """Turn every error of the SDK inside into a DockerRefusedError or a DockerLostError that names `doing`."""
        # Both take about 0.1 s to import, and only this engine needs them.
        import requests
        import urllib3
        from docker import errors

        try:
            yield
        except errors.APIError as error:
            words = str(error.explanation or error).strip()
            raise DockerRefusedError(doing, status=error.status_code, words=words) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, errors.DockerException, OSError) as error:
            raise DockerLostError(
                f"the Docker engine at {self.address} stopped answering while {doing}: {system_cause(error)[1]}",
                hint="Is Docker still running? `docker info` tells.",
            ) from error

    def facts(self) -> Mapping[str, Any]:
        """Return the daemon's answer to `GET /info`, asked once; of Podman with the limits that it really keeps."""
        if self._facts is None:
            with self.asking("asking what it is"):
                facts: dict[str, Any] = self.api.info()
                if is_podman(facts):
                    # The oldest version that Podman 4 and 5 serve; an older Podman refuses.
                    answer = self.api.get(f"{self.api.base_url}/v4.0.0/libpod/info", timeout=self.api.timeout)
                    facts |= podman_limits(answer.json()) if answer.ok else {}
                self._facts = facts
        return self._facts

    def answers(self) -> bool:
        """Say whether the daemon takes new connections still, and not only serves those that it has."""
        try:
            client, address = _connect()
        except EngineUnavailableError:
            return False
        client.close()
        return address == self.address


def _endpoints() -> list[dict[str, Any]]:
    """Return where a daemon may listen, in the order to try, as arguments for the SDK's client.

    DOCKER_HOST, if set, excludes everything else; then the docker command's current context, then a rootless engine's
    socket. Source: https://docs.docker.com/engine/security/protect-access/ and /engine/security/rootless/.
    """
    # Takes about 0.1 s to import, and only this engine needs it.
    from docker.context import ContextAPI
    from docker.utils import kwargs_from_env

    if os.environ.get("DOCKER_HOST"):
        return [dict(kwargs_from_env())]
    endpoint: dict[str, Any] = {"base_url": DEFAULT_ADDRESS}
    with contextlib.suppress(Exception):  # a context that cannot be read is the docker command's affair
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
        if context is not None and context.Name != "default" and context.Host:
            endpoint = {"base_url": context.Host, "tls": context.TLSConfig or False}
    found = [endpoint]
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "docker.sock"
    if rootless.is_socket():
        found.append({"base_url": f"unix://{rootless}"})
    return found


def _connect(wanted: str | None = None) -> tuple[Any, str]:
    """Return a client whose daemon has answered, and its address, which may be the `wanted` one alone."""
    # Takes about 0.1 s to import, and only this engine needs it.
    import docker

    failures: list[tuple[str, BaseException]] = []
    try:
        endpoints = _endpoints()
    except Exception as error:  # for instance DOCKER_TLS_VERIFY without the certificates
        raise _nobody([(os.environ.get("DOCKER_HOST", ""), error)]) from error
    for endpoint in endpoints:
        address = os.environ.get("DOCKER_HOST") or endpoint["base_url"]
        if wanted not in (None, address):
            continue
        try:
            _knock(address)
            client = docker.APIClient(**endpoint, version="auto", timeout=_GREETING_SECONDS)
        except Exception as error:
            # Whatever the SDK makes of an address that it cannot use, the fact is that no engine answers there.
            failures.append((address, error))
            continue
        client.timeout = _ANSWER_SECONDS
        return client, address
    if not failures:
        failures = [(str(wanted), OSError("nothing here names it any more"))]
    raise _nobody(failures) from failures[0][1]


def _knock(address: str) -> None:
    """Connect to a socket and close it again: the SDK would leave one unclosed that it cannot connect."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(_GREETING_SECONDS)
            door.connect(address.removeprefix("unix://"))


def _nobody(failures: list[tuple[str, BaseException]]) -> EngineUnavailableError:
    address, error = failures[0]
    number, words = system_cause(error)
    if number in (errno.EACCES, errno.EPERM):
        hint = "Add yourself to the group docker (`sudo usermod -aG docker $USER`) and log in again."
    elif os.environ.get("DOCKER_HOST"):
        hint = f"DOCKER_HOST is set to {address}: start the engine there, correct the variable or unset it."
    else:
        hint = (
            "Start Docker (`sudo systemctl start docker`), or install it: https://docs.docker.com/engine/install/. If "
            "it listens elsewhere, set DOCKER_HOST. Without Docker, `--engine local` runs in a virtual environment."
        )
    others = tuple(f"nor at {other}: {system_cause(failure)[1]}" for other, failure in failures[1:])
    return EngineUnavailableError(f"no Docker engine answers at {address}: {words}", details=others, hint=hint)


# CUDA's driver API, so that it works without torch: cuInit and cuDeviceGetCount return 0 (CUDA_SUCCESS) when all is
# well.
_GPU_QUESTION = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
assert status == 0, "CUDA driver error %d" % status
print(count.value)
"""


class DockerEngine(DockerImages):
    """Implements Engine and ImageStore over a Docker daemon."""

    name = "docker"

    def __init__(self, *, orphan_seconds: float | None = ORPHAN_SECONDS) -> None:
        """Connect to the daemon. Raises EngineUnavailableError, with what to do, when none answers.

        A program whose reprobox has died is ended after `orphan_seconds`; None lets it go on to its end.
        """
        self._orphan_seconds = orphan_seconds
        self._connection = Connection()
        super().__init__(self._connection)

    def info(self) -> EngineInfo:
        """Say what this engine is. Raises EngineError when the daemon does not answer any more."""
        facts = self._connection.facts()
        return EngineInfo(
            kind=self.name,
            version=("podman " if is_podman(facts) else "") + printable(str(facts["ServerVersion"])),
            gpu_access=gpu_access(facts, find_driver()),
        )

    def limits_ignored(self, plan: Plan) -> tuple[str, ...]:
        """Say which limits of `plan` this engine cannot keep, a sentence each."""
        return limits_ignored(plan, self._connection.facts())

    @contextlib.contextmanager
    def start(self, plan: Plan) -> Iterator[ContainerExecution]:
        """Start the program in a container; on leaving the container is gone, whichever way the context is left.

        The program runs as the caller; where that is root, as an unprivileged user to whom `plan.work` and
        `plan.record` are lent. Raises EngineError: image not there, data in the way, GPUs not to be had, daemon lost.
        """
        facts = self._connection.facts()
        image = self.find_image(plan.environment)
        if image is None:
            raise EngineError(f"the image is not in the Docker engine: {plan.environment}")
        image_env = tuple(image.config.get("Env", ()))
        user = container_user(facts)
        gpus = choose_gpus(plan.gpus, facts, find_driver())
        if gpus.access != "none":
            self._check_gpus(plan, gpus)
        config = plan_to_container(plan, info=facts, image_env=image_env, owner=this_process(), user=user, gpus=gpus)
        if self._orphan_seconds is None:
            config["Labels"] |= {KEEP_LABEL: ""}
        write_start_files(plan.site, site=inside.SITE, record=inside.RECORD)
        with contextlib.ExitStack() as stack:
            stack.enter_context(mount_points(plan.work, plan.data))
            stack.enter_context(lent((plan.work, plan.record), user))
            yield stack.enter_context(
                running(
                    self._connection,
                    container_name(plan.run_id),
                    config,
                    memory=plan.memory,
                    path=f"{inside.ENVIRONMENT}/bin:{image_path(image_env)}",
                    shared=(plan.record, inside.RECORD),
                    watched=self._watched,
                )
            )

    def _watched(self, container: str) -> AbstractContextManager[None]:
        """See to it that a container does not outlive this process by long, though nothing be left to run here."""
        if self._orphan_seconds is None:
            return contextlib.nullcontext()
        place = str(Path(reprobox.__file__).parents[1])
        command = [sys.executable, "-P", "-c", _END_ORPHAN, place, self._connection.address, container]
        return watched(command, seconds=self._orphan_seconds)

    def _check_gpus(self, plan: Plan, gpus: GpuChoice) -> None:
        """Ask CUDA's driver, in a container that gets the same GPUs, whether it works. Raises EngineError if not.

        A container without a working driver would train on the CPU, and say so hours later.
        """
        try:
            answer = self.run_once(plan.environment, ("python3", "-c", _GPU_QUESTION), gpus)
        except ImageError as error:
            raise EngineError(
                f"GPUs were passed ({gpus.access}), but CUDA does not work in the container",
                details=error.details,
                hint="`nvidia-smi` tells whether the driver works on this machine; `--gpus none` trains on the CPU",
            ) from error
        wanted = None if plan.gpus == "all" else len(plan.gpus.split(","))
        if int(answer) < (wanted or 1):
            raise EngineError(f"{answer.strip()} GPUs arrive in the container, {plan.gpus} were asked for")

    def left_of(self, run_id: str) -> Left | None:
        """Say what is left of the program of a run whose reprobox has died: a container of its ID."""
        with self._connection.asking("looking for the run's container"):
            found = self._connection.api.containers(all=True, filters={"label": [f"{RUN_LABEL}={run_id}"]})
            for container in found:
                state = self._connection.api.inspect_container(container["Id"])["State"]
                name = container["Names"][0].lstrip("/") if container["Names"] else container["Id"][:12]
                running = state["Status"] in _RUNNING
                return Left(name=name, running=running, exit_code=None if running else int(state["ExitCode"]))
        return None

    def sweep(self) -> list[str]:
        """Remove the containers of reprobox processes that are gone; return their names.

        Where it cannot be told whether a process lives (see `owner.is_gone`), or where the program may outlive it, the
        container stays until it has ended.
        """
        with self._connection.asking("looking for leftovers"):
            found = self._connection.api.containers(all=True, filters={"label": [OWNER_LABEL]})
        removed = []
        for container in found:
            gone = is_gone(container["Labels"][OWNER_LABEL])
            kept = KEEP_LABEL in container["Labels"] and container["State"] in _RUNNING
            if (gone and not kept) or (gone is None and container["State"] in ("exited", "dead")):
                name = container["Names"][0].lstrip("/") if container["Names"] else container["Id"][:12]
                if remove(self._connection, name):
                    removed.append(name)
        return removed


def end_orphan(address: str, container: str) -> None:
    """Stop and remove the container of a reprobox that has died, in the engine at `address`; what it wrote stays.

    There may be nothing left to do, and nobody is there to be told.
    """
    with contextlib.suppress(EngineError):
        connection = Connection(address)
        with contextlib.suppress(DockerRefusedError), connection.asking("stopping a container"):
            connection.api.stop(container, timeout=_STOP_SECONDS)
        remove(connection, container)


def diagnose() -> list[Check]:
    """Check the Docker engine for `reprobox doctor`: whether it answers, its storage, disk, limits, mounts and GPUs."""
    try:
        connection = Connection()
        return examine(connection, connection.address)
    except EngineError as error:
        return unavailable(error)

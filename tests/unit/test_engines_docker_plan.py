"""From a plan to what the Docker daemon is asked for, without a daemon."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.docker_plan import (
    OWNER_LABEL,
    RUN_LABEL,
    choose_gpus,
    container_name,
    container_user,
    finds_layers,
    gpu_access,
    image_path,
    limits_ignored,
    once_to_container,
    plan_to_container,
    podman_limits,
    program_environment,
)
from reprobox.engines.interface import DataMount, EngineInfo, Plan
from reprobox.engines.nvidia import Driver
from reprobox.errors import EngineError

INFO: dict[str, Any] = {"NCPU": 4, "MemoryLimit": True, "CpuCfsQuota": True, "Runtimes": {"runc": {}}}
TOOLKIT = INFO | {"Runtimes": {"runc": {}, "nvidia": {}}}
CDI = INFO | {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run_id": "digits-0007",
        "command": ("python", "train.py"),
        "environment": "sha256:abc",
        "work": Path("/runs/w"),
        "record": Path("/runs/r"),
        "site": Path("/runs/s"),
    }
    return Plan(**fields | changes)


def body(info: dict[str, Any] | None = None, image_env: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    plan, daemon = make_plan(**changes), info or INFO
    gpus = choose_gpus(plan.gpus, daemon)
    return plan_to_container(plan, info=daemon, image_env=image_env, owner="1:2:3:4", user=(1234, 1235), gpus=gpus)


def host(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = body(**changes)["HostConfig"]
    return config


def environment(**changes: Any) -> dict[str, str]:
    return dict(line.split("=", 1) for line in body(**changes)["Env"])


def test_the_container_is_confined() -> None:
    config = host()
    assert config["ReadonlyRootfs"] is True
    assert config["CapDrop"] == ["ALL"]
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["NetworkMode"] == "none"
    assert config["ExtraHosts"] == ["reprobox:127.0.0.1"]
    assert 0 < config["PidsLimit"] < 2**15
    assert config["Ulimits"] == [{"Name": "core", "Soft": 0, "Hard": 0}]
    assert "Privileged" not in config and "Binds" not in config


def test_a_network_is_there_only_when_wanted() -> None:
    config = host(network=True)
    assert config["NetworkMode"] == "bridge" and "ExtraHosts" not in config


def test_the_program_runs_as_the_user_in_the_work_folder_whatever_the_image_says() -> None:
    asked = body()
    assert (asked["User"], asked["WorkingDir"], asked["Hostname"]) == ("1234:1235", "/work", "reprobox")
    assert (asked["Entrypoint"], asked["Cmd"]) == (["python", "train.py"], [])
    assert asked["Image"] == "sha256:abc"
    assert asked["Healthcheck"] == {"Test": ["NONE"]}


def test_only_work_and_record_can_be_written() -> None:
    data = (DataMount(source=Path("/somewhere/digits"), target="data/digits"),)
    mounts = {mount["Target"]: mount for mount in host(data=data)["Mounts"]}
    assert {target for target, mount in mounts.items() if not mount["ReadOnly"]} == {"/work", "/reprobox/record"}
    assert mounts["/reprobox/site"]["Source"] == "/runs/s"
    assert not any(target.endswith((".zip", ".pth")) for target in mounts)
    assert mounts["/work/data/digits"] == {
        "Type": "bind",
        "Source": "/somewhere/digits",
        "Target": "/work/data/digits",
        "ReadOnly": True,
    }


def test_start_files_lie_where_the_images_python_looks_for_them() -> None:
    points = ("/usr/lib/python311.zip", "/opt/env/lib/python3.11/site-packages/reprobox.pth")
    mounts = {mount["Target"]: mount for mount in host(start_points=points)["Mounts"]}
    assert [(mounts[point]["Source"], mounts[point]["ReadOnly"]) for point in points] == [
        ("/runs/s/start", True),
        ("/runs/s/reprobox.pth", True),
    ]


def test_the_environment_is_the_plans_and_the_engines() -> None:
    seen = environment(env={"OMP_NUM_THREADS": "2", "HOME": "/root"}, image_env=("PATH=/conda/bin:/bin", "X=1"))
    assert seen == {
        "OMP_NUM_THREADS": "2",
        "PATH": "/opt/env/bin:/conda/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_folders_of_modules_are_those_in_the_work_folder_alone() -> None:
    seen = environment(pythonpath=("src", ".", "lib/"), image_env=("PYTHONPATH=/theirs",))
    assert seen["PYTHONPATH"] == "/work/src:/work:/work/lib"
    assert "PYTHONPATH" not in environment(image_env=("PYTHONPATH=/theirs",))


def test_an_image_without_a_path_has_dockers() -> None:
    assert image_path(("HOME=/x",)) == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_memory_is_limited_without_swap_and_bounds_the_temporary_folder() -> None:
    config = host(memory=2**30, shm=2**20)
    assert config["Memory"] == config["MemorySwap"] == 2**30
    assert config["ShmSize"] == 2**20
    assert f"size={2**29}" in config["Tmpfs"]["/tmp"]


def test_no_limits_are_set_that_were_not_asked_for() -> None:
    assert not {"Memory", "MemorySwap", "ShmSize", "NanoCpus", "DeviceRequests"} & set(host())


def test_the_temporary_folder_belongs_to_the_user_and_may_hold_programs() -> None:
    options = host()["Tmpfs"]["/tmp"].split(",")
    assert {"exec", "nosuid", "nodev", "mode=1777", "uid=1234", "gid=1235"} <= set(options)


def test_cpus_are_limited_only_to_what_the_engine_has() -> None:
    assert host(cpus=2)["NanoCpus"] == 2 * 10**9
    assert "NanoCpus" not in host(cpus=5)
    assert "NanoCpus" not in host(cpus=2, info=INFO | {"CpuCfsQuota": False})


def test_limits_that_the_engine_cannot_keep_are_said() -> None:
    assert limits_ignored(make_plan(cpus=4, memory=1), INFO) == ()
    said = limits_ignored(make_plan(cpus=5, memory=1), INFO | {"MemoryLimit": False})
    assert [sentence for sentence in said if "memory" in sentence]
    assert [sentence for sentence in said if "5 threads" in sentence]


def test_the_labels_name_run_and_owner() -> None:
    assert body()["Labels"] == {RUN_LABEL: "digits-0007", OWNER_LABEL: "1:2:3:4"}


def test_no_log_is_kept_by_the_engine() -> None:
    assert host()["LogConfig"]["Type"] == "none"


def test_a_command_run_once_has_nothing_mounted_and_no_network() -> None:
    config = once_to_container("image", ("true",), info={}, owner="o", user=(1, 1))["HostConfig"]
    assert config["NetworkMode"] == "none" and "Mounts" not in config and config["CapDrop"] == ["ALL"]


PODMAN = {"BuildahVersion": "1.28.2", "ServerVersion": "4.3.1"}


def test_podman_gets_no_owner_of_the_temporary_folder_and_the_callers_own_limits() -> None:
    config = host(info=PODMAN)
    assert "uid=" not in config["Tmpfs"]["/tmp"] and "mode=1777" in config["Tmpfs"]["/tmp"]
    limits = {limit["Name"]: limit["Hard"] for limit in config["Ulimits"]}
    assert limits["core"] == 0 and limits["nofile"] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert 0 < limits["nproc"] <= 32768
    assert [limit["Name"] for limit in host()["Ulimits"]] == ["core"]
    assert "uid=" in host()["Tmpfs"]["/tmp"]


def test_a_rootless_podman_runs_programs_as_its_user() -> None:
    assert container_user(PODMAN | {"Rootless": True}, (1000, 1000)) == (0, 0)
    assert container_user(PODMAN | {"Rootless": False}, (1000, 1000)) == (1000, 1000)


def test_podman_keeps_the_limits_whose_controllers_its_user_has() -> None:
    root = podman_limits({"host": {"cgroupControllers": ["cpuset", "cpu", "memory", "pids"]}})
    assert root == {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True}
    delegated = podman_limits({"host": {"cgroupControllers": ["memory", "pids"]}})
    assert delegated == {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": False}
    for nothing in ([], None):
        assert not any(podman_limits({"host": {"cgroupControllers": nothing}}).values())


def test_a_limit_that_the_engine_cannot_keep_is_not_asked_for() -> None:
    without = host(cpus=2, memory=1 << 20, info=INFO | podman_limits({"host": {"cgroupControllers": []}}))
    assert not {"NanoCpus", "Memory", "MemorySwap", "PidsLimit"} & without.keys()
    assert {"NanoCpus", "Memory", "MemorySwap", "PidsLimit"} <= host(cpus=2, memory=1 << 20).keys()


def test_an_engine_that_stands_in_for_docker_is_called_by_its_name() -> None:
    assert EngineInfo(kind="docker", version="podman 4.3.1").product == "podman 4.3.1"
    assert EngineInfo(kind="docker", version="20.10.24").product == "docker 20.10.24"


class TestGpus:
    def test_none_asks_for_none(self) -> None:
        assert choose_gpus("none", TOOLKIT).host_config == {}
        assert choose_gpus("none", TOOLKIT).access == "none"

    def test_none_keeps_them_from_an_image_that_asks_itself(self) -> None:
        assert environment(info=TOOLKIT)["NVIDIA_VISIBLE_DEVICES"] == "void"
        assert "NVIDIA_VISIBLE_DEVICES" not in environment(info=TOOLKIT, gpus="all")

    def test_the_toolkit_passes_all_or_some(self) -> None:
        asked = choose_gpus("all", TOOLKIT)
        assert asked.access == "toolkit"
        (request,) = asked.host_config["DeviceRequests"]
        assert (request["Driver"], request["Count"]) == ("nvidia", -1)
        assert "gpu" in request["Capabilities"][0]
        (request,) = choose_gpus("0,3", TOOLKIT).host_config["DeviceRequests"]
        assert request["DeviceIDs"] == ["0", "3"] and "Count" not in request

    def test_cdi_names_devices(self) -> None:
        assert choose_gpus("all", CDI).access == "cdi"
        (request,) = choose_gpus("0,3", CDI).host_config["DeviceRequests"]
        assert request == {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=3"]}
        (request,) = choose_gpus("all", CDI).host_config["DeviceRequests"]
        assert request["DeviceIDs"] == ["nvidia.com/gpu=all"]

    def test_an_engine_that_can_pass_none_is_an_error_with_a_hint(self) -> None:
        with pytest.raises(EngineError, match="cannot pass any") as caught:
            body(gpus="all")
        assert caught.value.hint is not None and "NVIDIA Container Toolkit" in caught.value.hint

    @pytest.mark.parametrize("wanted", ["", "two", "0,", "0 1", "-1", "0,all"])
    def test_what_names_no_gpus_is_refused(self, wanted: str) -> None:
        with pytest.raises(EngineError, match="names no GPUs"):
            choose_gpus(wanted, TOOLKIT)

    def test_without_a_toolkit_devices_and_driver_are_passed_one_by_one(self) -> None:
        driver = Driver(
            gpus=("/dev/nvidia0", "/dev/nvidia1"),
            controls=("/dev/nvidiactl", "/dev/nvidia-uvm"),
            libraries=(("libcuda.so.1", "/lib/libcuda.so.580"),),
        )
        asked = choose_gpus("1", INFO, driver)
        assert asked.access == "devices"
        paths = [device["PathOnHost"] for device in asked.host_config["Devices"]]
        assert paths == ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]
        config = plan_to_container(
            make_plan(gpus="1"), info=INFO, image_env=("LD_LIBRARY_PATH=/usr/x",), owner="o", user=(1, 1), gpus=asked
        )
        assert "LD_LIBRARY_PATH=/reprobox/driver:/usr/x" in config["Env"]
        assert "TRITON_LIBCUDA_PATH=/reprobox/driver" in config["Env"]
        mount = config["HostConfig"]["Mounts"][-1]
        assert (mount["Source"], mount["Target"]) == ("/lib/libcuda.so.580", "/reprobox/driver/libcuda.so.1")
        assert mount["ReadOnly"] is True
        assert choose_gpus("all", TOOLKIT, driver).access == "toolkit"
        with pytest.raises(EngineError, match="this machine has 2"):
            choose_gpus("2", INFO, driver)

    def test_what_the_spec_lets_through_says_where_triton_looks_for_the_driver(self) -> None:
        driver = Driver(gpus=("/dev/nvidia0",), controls=(), libraries=(("libcuda.so.1", "/lib/libcuda.so.580"),))
        asked = choose_gpus("all", INFO, driver)
        own = {"TRITON_LIBCUDA_PATH": "/mine", "LD_LIBRARY_PATH": "/mine too"}
        seen = program_environment(make_plan(gpus="all", env=own), (), asked)
        assert {name: seen[name] for name in own} == own
        for info, gpus in ((TOOLKIT, "all"), (CDI, "all"), (INFO, "none")):
            assert "TRITON_LIBCUDA_PATH" not in environment(info=info, gpus=gpus)

    def test_access_is_told_from_the_engines_own_words(self) -> None:
        assert [gpu_access(info) for info in (INFO, TOOLKIT, CDI, {})] == ["none", "toolkit", "cdi", "none"]


class TestUser:
    def test_it_is_the_caller(self) -> None:
        assert container_user(INFO, (501, 20)) == (501, 20)

    def test_it_is_never_root(self) -> None:
        assert container_user(INFO, (0, 0)) == (1000, 1000)

    def test_in_a_rootless_engine_root_stands_for_the_caller(self) -> None:
        info = INFO | {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}
        assert container_user(info, (501, 20)) == (0, 0)


def test_container_names_are_allowed_and_never_the_same() -> None:
    names = {container_name("my run/ü:7") for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name) for name in names)


@pytest.mark.parametrize(
    ("info", "finds"),
    [
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, True),
        ({"Driver": "overlayfs", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}, True),
        ({"Driver": "overlay", "BuildahVersion": "1.28.2"}, False),
        ({"Driver": "vfs", "DriverStatus": None}, True),
    ],
)
def test_docker_and_not_podman_gets_archives_without_the_layers_it_has(info: dict[str, object], finds: bool) -> None:
    assert finds_layers(info) is finds

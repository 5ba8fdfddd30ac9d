"""Finding NVIDIA's driver: the device files and the libraries that computing needs, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.engines.nvidia import find_driver


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / "dev" / name).touch()
    libraries = tmp_path / "lib"
    libraries.mkdir()
    for name in ("libcuda.so.580.1", "libnvidia-ml.so.580.1", "libnvidia-glcore.so.580.1", "libc.so.6"):
        (libraries / name).touch()
    (libraries / "libcuda.so.1").symlink_to("libcuda.so.580.1")
    return tmp_path


def test_devices_are_ordered_by_number_and_libraries_are_those_for_computing(machine: Path) -> None:
    driver = find_driver(machine / "dev", [str(machine / "none"), str(machine / "lib")])
    assert driver is not None
    assert [Path(path).name for path in driver.gpus] == ["nvidia2", "nvidia10"]
    assert [Path(path).name for path in driver.devices(None)] == ["nvidia2", "nvidia10", "nvidiactl", "nvidia-uvm"]
    assert dict(driver.libraries) == {
        "libcuda.so": str(machine / "lib" / "libcuda.so.580.1"),
        "libcuda.so.1": str(machine / "lib" / "libcuda.so.580.1"),
        "libcuda.so.580.1": str(machine / "lib" / "libcuda.so.580.1"),
        "libnvidia-ml.so.580.1": str(machine / "lib" / "libnvidia-ml.so.580.1"),
    }


def test_a_name_for_linkers_that_is_there_stays(machine: Path) -> None:
    (machine / "lib" / "stubs.so").touch()
    (machine / "lib" / "libcuda.so").symlink_to("stubs.so")
    driver = find_driver(machine / "dev", [str(machine / "lib")])
    assert driver is not None
    assert dict(driver.libraries)["libcuda.so"] == str(machine / "lib" / "stubs.so")


def test_half_a_driver_is_none(machine: Path) -> None:
    assert find_driver(machine / "dev", [str(machine / "none")]) is None
    assert find_driver(machine / "lib", [str(machine / "lib")]) is None

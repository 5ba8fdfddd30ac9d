"""The driver is held against the CUDA that the packages bring, before anything is fetched or run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprobox.engines import cuda
from reprobox.engines.cuda import Cuda, check_driver, cuda_of, driver_version
from reprobox.engines.nvidia import Driver
from reprobox.errors import EngineError
from reprobox.fingerprint import observe

TORCH_12 = [("torch", "2.7.0"), ("nvidia-cuda-runtime-cu12", "12.6.77")]
TORCH_13 = [("nvidia-cuda-runtime", "13.0.96"), ("torch", "2.11.0")]


@pytest.mark.parametrize(
    ("packages", "version"),
    [
        (TORCH_12, "12.6"),
        (TORCH_13, "13.0"),
        ([("torch", "2.7.0+cu118")], "11.8"),
        ([("torch", "2.13.0+cu130")], "13.0"),
        ([("torch", "2.13.0+cpu")], None),
        ([("torch", "2.13.0"), ("numpy", "2.0+cu118")], None),
        ([], None),
    ],
)
def test_the_runtimes_wheel_or_torchs_local_version_tells_cuda(
    packages: list[tuple[str, str]], version: str | None
) -> None:
    found = cuda_of(packages)
    assert (found.version if found else None) == version


def test_the_wheel_of_the_runtime_counts_before_torchs_own_words() -> None:
    packages = [("torch", "2.13.0+cu118"), ("nvidia-cuda-runtime-cu12", "12.8.90")]
    assert cuda_of(packages) == Cuda(version="12.8", package="nvidia-cuda-runtime-cu12 12.8.90")


@pytest.mark.parametrize(
    ("packages", "old", "enough"),
    [
        ([("torch", "1.13.0+cu117")], "450.51.06", "450.80.02"),
        (TORCH_12, "525.60.12", "525.60.13"),
        (TORCH_13, "575.57.08", "580.65.06"),
        (TORCH_13, "580.0", "580.126.09"),
    ],
)
def test_a_driver_older_than_nvidias_table_says_is_refused_and_the_first_good_one_is_not(
    packages: list[tuple[str, str]], old: str, enough: str
) -> None:
    assert check_driver(packages, enough, {}) is None
    with pytest.raises(EngineError, match=f"NVIDIA's driver {old} is too old for CUDA") as caught:
        check_driver(packages, old, {})
    assert caught.value.hint is not None and "update the driver" in caught.value.hint


def test_the_message_names_what_brings_cuda_what_it_needs_and_what_the_driver_serves() -> None:
    with pytest.raises(EngineError) as caught:
        check_driver(TORCH_13, "535.104.05", {})
    assert caught.value.message == (
        "NVIDIA's driver 535.104.05 is too old for CUDA 13.0, which nvidia-cuda-runtime 13.0.96 brings"
    )
    assert caught.value.details == ("CUDA 13 needs driver 580.65.06 or later", "driver 535.104.05 serves CUDA 12")


@pytest.mark.parametrize(
    ("packages", "driver", "env"),
    [
        (TORCH_13, None, {}),
        ([("jax", "0.5.0")], "450.0.0", {}),
        ([("torch", "9.0+cu990")], "450.0.0", {}),
        (TORCH_13, "535.104.05", {"NV_CUDA_COMPAT_PACKAGE": "cuda-compat-13-0"}),
    ],
)
def test_what_cannot_be_told_or_is_made_up_for_is_not_judged(
    packages: list[tuple[str, str]], driver: str | None, env: dict[str, str]
) -> None:
    assert check_driver(packages, driver, env) is None


def test_a_torch_without_cuda_is_warned_of_whatever_the_driver() -> None:
    warning = check_driver([("torch", "2.13.0+cpu")], None, {})
    assert warning is not None and "torch 2.13.0+cpu is built without CUDA" in warning


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC 12",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build  (dvs-builder@U22)\n",
    ],
)
def test_the_kernel_module_tells_the_drivers_version(tmp_path: Path, text: str) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == "535.104.05"


def test_without_the_kernels_word_the_drivers_library_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Driver(gpus=(), controls=(), libraries=(("libcuda.so.1", "/usr/lib64/libcuda.so.570.86.15"),))
    monkeypatch.setattr(cuda, "find_driver", lambda: library)
    assert driver_version(tmp_path / "version") == "570.86.15"
    monkeypatch.setattr(cuda, "find_driver", lambda: None)
    assert driver_version(tmp_path / "version") == observe().driver

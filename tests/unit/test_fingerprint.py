"""The machine is read from what Linux and NVIDIA's tool print, and differences that can change bits are told."""

from __future__ import annotations

import dataclasses
import hashlib
import stat
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.fingerprint import (
    Cpu,
    Gpu,
    Machine,
    differences,
    observe,
    parse_cpuinfo,
    parse_gpus,
    parse_meminfo,
    parse_os_release,
)
from reprobox.manifest.store import MANIFEST_FORMAT, dump_manifest, read_manifest

MANIFEST = Path(__file__).parents[1] / "assets" / "manifest-1.yaml"

EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7763  64-Core Processor
flags\t\t: fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c rdrand avx2 bmi1 sha_ni vaes rdpid

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7763  64-Core Processor
flags\t\t: fpu sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c rdrand avx2 bmi1 sha_ni vaes rdpid
"""
XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480C
flags\t\t: fpu sse4_2 fma avx avx2 avx512f avx512dq avx512_bf16 avx512_fp16 avx_vnni amx_bf16 amx_tile amx_int8 avx512vl
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes sha3 asimddp sha512 sve asimdfhm fphp asimdhp i8mm bf16 rng
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1
"""


def test_an_amd_epyc_is_read() -> None:
    assert parse_cpuinfo(EPYC, cores=64) == Cpu(
        model="AMD EPYC 7763 64-Core Processor", isa=("avx", "avx2", "f16c", "fma", "sse4_2"), cores=2
    )


def test_an_intel_xeon_with_amx_is_read() -> None:
    cpu = parse_cpuinfo(XEON, cores=1)
    assert cpu.model == "Intel(R) Xeon(R) Platinum 8480C"
    assert {"amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512_fp16", "avx512f", "avx_vnni"} < set(cpu.isa)
    assert list(cpu.isa) == sorted(cpu.isa)
    assert "fpu" not in cpu.isa


def test_an_arm_core_gets_the_name_that_linux_does_not_give_it() -> None:
    cpu = parse_cpuinfo(GRAVITON, cores=1)
    assert cpu.model == "ARM Neoverse-V1"
    assert cpu.isa == ("asimd", "asimddp", "asimdfhm", "asimdhp", "bf16", "i8mm", "sve")
    assert parse_cpuinfo(GRAVITON.replace("0xd40", "0xfff"), cores=1).model == "ARM implementer 0x41 part 0xfff"


def test_a_text_that_says_nothing_gives_an_unknown_cpu() -> None:
    assert parse_cpuinfo("", cores=4) == Cpu(model="unknown", isa=(), cores=4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Debian GNU/Linux 12 (bookworm)"),
        ("# comment=1\nPRETTY_NAME='Fedora Linux 41'\n", "Fedora Linux 41"),
        ("NAME=Alpine\n", "Alpine"),
        ('PRETTY_NAME="half\n', "half"),
        ("", ""),
    ],
)
def test_the_system_s_name_is_read(text: str, name: str) -> None:
    assert parse_os_release(text) == name


def test_memory_is_read_in_mib() -> None:
    assert parse_meminfo("MemTotal:       24684264 kB\nMemFree: 1 kB\n") == 24105
    assert parse_meminfo("") == 0


UUID = "GPU-5f6b2b1c-8d3a-7e44-91c2-0a1b2c3d4e5f"
H100 = f"NVIDIA H100 80GB HBM3, 9.0, 81559, {UUID}, Disabled, 580.159.04\n"


def test_an_h100_is_read_and_its_uuid_hashed() -> None:
    gpus, driver = parse_gpus(H100 + H100.replace("Disabled", "Enabled"))
    assert driver == "580.159.04"
    assert gpus[0] == Gpu(
        name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        memory_mib=81559,
        uuid_hash="sha256:" + hashlib.sha256(UUID.encode()).hexdigest(),
        mig=False,
    )
    assert gpus[1].mig
    assert UUID not in repr(gpus)


def test_fields_that_the_driver_does_not_know_become_zero() -> None:
    (gpu,), driver = parse_gpus("NVIDIA GB10, [N/A], [N/A], GPU-1, [N/A], [Not Supported]\n")
    assert (gpu.compute_capability, gpu.memory_mib, gpu.mig, driver) == ("0.0", 0, False, None)


def test_lines_of_another_form_are_passed_over() -> None:
    assert parse_gpus("No devices were found\n\nUnable to determine the device handle for GPU0, reason\n") == ((), None)


def fake_tool(folder: Path, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def test_the_driver_s_tool_is_asked_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (observe().gpus, observe().driver) == ((), None)
    fake_tool(tmp_path, f"printf '%s' '{H100}'")
    machine = observe()
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA H100 80GB HBM3"]
    assert machine.driver == "580.159.04"
    fake_tool(tmp_path, "echo 'NVIDIA-SMI has failed, a, b, c, d, e'; exit 9")
    assert observe().gpus == ()
    (tmp_path / "nvidia-smi").write_text("not a program")
    assert observe().gpus == ()


def test_this_machine_is_observed_without_its_names() -> None:
    machine = observe()
    assert machine.cpu.cores >= 1
    assert machine.architecture
    assert machine.memory_mib > 0
    node = Path("/proc/sys/kernel/hostname").read_text().strip()
    assert node not in (machine.os, machine.kernel, machine.cpu.model)


def machine(cpuinfo: str, gpus: str = "", **more: object) -> Machine:
    found, driver = parse_gpus(gpus)
    settings = {"os": "Debian", "kernel": "6.1", "architecture": "x86_64", "memory_mib": 1, "driver": driver, **more}
    return Machine(cpu=parse_cpuinfo(cpuinfo, cores=1), gpus=found, **settings)  # type: ignore[arg-type]


def test_the_same_machine_has_no_differences_whatever_its_kernel_cores_and_serial_numbers() -> None:
    here = machine(EPYC, H100.replace("5f6b", "0000"), kernel="6.12", os="Fedora", memory_mib=2)
    here = dataclasses.replace(here, cpu=dataclasses.replace(here.cpu, cores=96))
    assert differences(machine(EPYC, H100), here, gpus=True) == []


def test_another_cpu_is_told_with_the_extensions_that_only_one_has() -> None:
    found = {one.what: one for one in differences(machine(XEON), machine(EPYC), gpus=True)}
    assert list(found) == ["cpu", "cpu extensions"]
    assert found["cpu"].here == "AMD EPYC 7763 64-Core Processor"
    assert "amx_bf16" in found["cpu extensions"].recorded
    assert "avx2" not in found["cpu extensions"].recorded
    assert found["cpu extensions"].here == "f16c"
    assert all(one.effect for one in found.values())


def test_another_gpu_more_gpus_or_none_are_told_and_the_driver_last() -> None:
    h200 = H100.replace("H100 80GB HBM3", "H200").replace("580.159.04", "570.1")
    found = differences(machine(EPYC, H100), machine(EPYC, h200), gpus=True)
    assert [one.what for one in found] == ["gpu", "driver"]
    assert found[0][:3] == ("gpu", "NVIDIA H100 80GB HBM3 (9.0)", "NVIDIA H200 (9.0)")
    assert (
        differences(machine(EPYC, H100), machine(EPYC, H100 * 2), gpus=True)[0].here
        == "2 x NVIDIA H100 80GB HBM3 (9.0)"
    )
    assert differences(machine(EPYC, H100), machine(EPYC), gpus=True)[0].here == "none"
    mig = differences(machine(EPYC, H100), machine(EPYC, H100.replace("Disabled", "Enabled")), gpus=True)
    assert mig[0].here == "NVIDIA H100 80GB HBM3 (9.0, MIG)"


def test_gpus_that_no_program_could_see_make_no_difference_nor_does_their_driver() -> None:
    assert differences(machine(EPYC), machine(EPYC, H100), gpus=False) == []
    assert [one.what for one in differences(machine(XEON), machine(EPYC, H100), gpus=False)] == [
        "cpu",
        "cpu extensions",
    ]


ODD = st.text(st.characters(codec=None, exclude_characters="\n"), max_size=300)


@given(name=ODD, flags=ODD, cores=st.integers(1, 9), gpu=st.lists(ODD, min_size=6, max_size=6), system=ODD, memory=ODD)
def test_no_run_is_refused_for_what_a_machine_calls_itself(
    name: str, flags: str, cores: int, gpu: list[str], system: str, memory: str
) -> None:
    gpus, driver = parse_gpus(",".join(field.replace(",", ";") for field in gpu))
    with (
        mock.patch("reprobox.fingerprint._observe_gpus", return_value=(gpus, driver)),
        mock.patch("platform.system", return_value=system),
        mock.patch("platform.release", return_value=name),
        mock.patch("platform.machine", return_value=flags),
        mock.patch(
            "reprobox.fingerprint._text",
            side_effect=lambda path: {
                "/etc/os-release": f"NAME={system}",
                "/proc/cpuinfo": f"processor\t: 0\nmodel name\t: {name}\nflags\t: avx2 avx512{flags}\n",
                "/proc/meminfo": f"MemTotal:  {memory} kB",
            }[path],
        ),
    ):
        machine = observe()
    manifest = read_manifest(MANIFEST)
    written = dump_manifest(dataclasses.replace(manifest, machine=machine))
    assert MANIFEST_FORMAT.read(written).machine == machine
    texts = [machine.os, machine.kernel, machine.architecture, machine.cpu.model, machine.driver or "none"]
    assert all(text and text.isprintable() and len(text) <= 2100 for text in texts)


@pytest.mark.parametrize(
    ("fields", "capability", "memory"),
    [
        ("H100, 9.0, 81559, u, Disabled, 535.1", "9.0", 81559),
        ("H100, 9, ²³, u, Disabled, 535.1", "0.0", 0),
        ("H100, 9.0.1, 99999999999999999999999, u, Disabled, 535.1", "0.0", 0),
    ],
)
def test_numbers_of_a_gpu_that_are_none_are_left_out(fields: str, capability: str, memory: int) -> None:
    ((gpu,), _) = parse_gpus(fields)
    assert (gpu.compute_capability, gpu.memory_mib) == (capability, memory)

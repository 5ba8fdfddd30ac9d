"""The switches that decide about bits are set, read back at the end, and what cannot be deterministic is explained."""

from __future__ import annotations

import ast

import pytest

from tests.integration.conftest import Training

pytestmark = pytest.mark.network


def test_deterministic_mode_sets_every_switch_and_reads_it_back_at_the_end(training: Training) -> None:
    training.run("")
    flags = training.facts[0]["determinism"]
    wanted = {
        "use_deterministic_algorithms": True,
        "warn_only": False,
        "fill_uninitialized_memory": False,
        "cudnn_deterministic": True,
        "cudnn_benchmark": False,
        "cudnn_allow_tf32": True,
        "matmul_allow_tf32": False,
        "float32_matmul_precision": "highest",
        "sdp_cudnn": False,
        "mkldnn_deterministic": True,
        "intraop_threads": 1,
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "42",
    }
    assert {name: flags[name] for name in wanted} == wanted
    assert flags["interop_threads"] >= 1
    assert training.warnings == []


def test_what_the_program_does_to_the_switches_is_what_is_recorded(training: Training) -> None:
    training.run("torch.set_float32_matmul_precision('high')\ntorch.use_deterministic_algorithms(True, warn_only=True)")
    flags = training.facts[0]["determinism"]
    assert (flags["float32_matmul_precision"], flags["warn_only"]) == ("high", True)


def test_the_number_of_threads_is_pinned_against_the_environment(training: Training) -> None:
    training.run("assert torch.get_num_threads() == 1", env={"OMP_NUM_THREADS": "2"})
    assert training.facts[0]["determinism"]["intraop_threads"] == 1


def test_a_program_may_use_either_of_torchs_interfaces_to_tf32(training: Training) -> None:
    training.run("torch.backends.cuda.matmul.allow_tf32 = True\nassert torch.backends.cuda.matmul.allow_tf32")
    assert training.facts[0]["determinism"]["matmul_allow_tf32"] is True
    training.run(
        """
if hasattr(torch.backends, "fp32_precision"):  # since torch 2.9
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
"""
    )
    assert training.facts[0]["determinism"]["matmul_fp32_precision"] in ("tf32", None)


def test_an_operator_without_a_deterministic_form_is_named_with_its_line_and_the_choices(training: Training) -> None:
    done = training.run(
        """
def mine(values):
    return values.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
mine(torch.zeros(4))
""",
        code_ends=1,
    )
    assert "RuntimeError: put_ does not have a deterministic implementation" in done.stderr
    explained = done.stderr.partition("\nreprobox: ")[2]
    line = 1 + training.HEAD.count("\n") + 2
    assert explained.startswith("this run is deterministic, and put_ has no deterministic form")
    assert f"train.py:{line}   return values.put_(" in explained
    assert all(word in explained for word in ("replace", "warn_only=True", "run without --deterministic"))
    assert training.warnings == [f"put_ has no deterministic implementation: train.py:{line}"]


FORBIDDEN = """
def mine(values):
    return values.put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
"""


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        ("try:\n    mine(torch.zeros(4))\nexcept RuntimeError as error:\n    raise ValueError('no') from error\n", 1),
        ("import threading\nthread = threading.Thread(target=mine, args=[torch.zeros(4)])\nthread.start()\n", 0),
        (
            "class Data:\n    def __len__(self): return 2\n    def __getitem__(self, i): return mine(torch.zeros(4))\n"
            "next(iter(torch.utils.data.DataLoader(Data(), num_workers=1)))\n",
            1,
        ),
        (
            "from IPython.core.interactiveshell import InteractiveShell\n"
            "InteractiveShell.instance().run_cell('mine(torch.zeros(4))')\n",
            0,
        ),
    ],
    ids=["cause of another error", "thread", "worker", "notebook"],
)
def test_such_an_operator_is_named_in_whatever_clothes_its_error_comes(
    training: Training, code: str, ends: int
) -> None:
    if "InteractiveShell" in code:
        code = code.replace("instance()", "instance(user_ns={'mine': mine, 'torch': torch})")
    done = training.run(FORBIDDEN + code, code_ends=ends)
    place = f"train.py:{1 + training.HEAD.count(chr(10)) + 2}"
    assert f"{place}   return values.put_(" in done.stderr.partition("\nreprobox: ")[2]
    assert training.warnings == [f"put_ has no deterministic implementation: {place}"]


def test_other_errors_are_left_to_python(training: Training) -> None:
    done = training.run("raise RuntimeError('mine')", code_ends=1)
    assert done.stderr.endswith("RuntimeError: mine\n")
    assert "reprobox" not in done.stderr


# What torch's header makes of MKL, and a child that notes, between importing torch and getting it, what is called.
HEADER = r"""
import pathlib, re, subprocess, sys
header = (pathlib.Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h").read_text()
print("header", *re.findall(r"^IMPLEMENT_VML_MKL\((\w+), \w+\)", header, flags=re.MULTILINE))
print("mkl", torch.backends.mkl.is_available())
"""
NOTED = r"""
import sys
from reprobox.runtime import warmup

call = warmup.call_vector_functions

def noted(torch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Note(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "aten" and isinstance(args[0], torch.Tensor):
                print("called", function.__name__.split(".")[0], args[0].dtype, args[0].numel(), args[0].device)
            return function(*args, **(kwargs or {}))

    with Note():
        call(torch)
    print("warmed")

warmup.call_vector_functions = noted
import torch
print("imported")
"""


def test_mkls_vector_functions_are_called_before_the_program_gets_torch(training: Training) -> None:
    child = f"subprocess.run([sys.executable, '-c', {NOTED!r}], check=True)\n"
    lines = training.run(HEADER + "sys.stdout.flush()\n" + child).stdout.splitlines()
    assert training.warnings == []
    expected, has_mkl = lines[0].split()[1:], lines[1] == "mkl True"
    called = [line.split()[1:] for line in lines if line.startswith("called")]
    wanted = [[name, f"torch.{dtype}", "1", "cpu"] for dtype in ("float32", "float64") for name in expected]
    assert sorted(called) == (sorted(wanted) if has_mkl else [])
    assert lines.index("warmed") < lines.index("imported")


STATE = r"""
import os, sys, torch
mine = [name for name in sys.modules if name.partition(".")[0] == "reprobox"]
known = {"reprobox": bool(mine), "modules": sorted(name for name in sys.modules if name not in mine)}
torch.set_num_threads(1)
torch.manual_seed(42) if not mine else None
known["random"] = hash(bytes(torch.get_rng_state().tolist()))
known["settings"] = [str(torch.get_default_dtype()), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                     str(torch.get_default_device()), torch.get_num_threads(), torch.get_num_interop_threads()]
known["cuda"] = torch.cuda.is_initialized()
known["system threads"] = len(os.listdir("/proc/self/task"))
print(repr(known))
"""


def test_torch_is_as_it_would_be_without_the_calls(training: Training) -> None:
    plain = "{name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'REPROBOX_RECORD')}"
    runs = f"for env in (None, {plain}):\n    subprocess.run([sys.executable, '-c', {STATE!r}], check=True, env=env)\n"
    lines = training.run("import os, subprocess, sys\n" + runs).stdout.splitlines()
    recorded, bare = (ast.literal_eval(line) for line in lines)
    assert (recorded.pop("reprobox"), bare.pop("reprobox")) == (True, False)
    added = set(recorded.pop("modules")) - set(bare.pop("modules"))
    assert not [name for name in added if name.partition(".")[0] == "torch"]
    assert recorded == bare

"""The main job as a user does it: run, replay, compare, on both engines, with real trainings."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from reprobox.manifest.store import read_manifest
from tests.integration.conftest import Reprobox, Training, remove_image

pytestmark = pytest.mark.network

ENGINES = [pytest.param("docker", marks=pytest.mark.docker), "local"]
RUN_KEYS = {"run_dir", "manifest", "status", "engine", "image", "steps", "first_loss", "final_loss", "seconds"}
REPLAY_KEYS = {"verdict", "steps_compared", "first_divergence", "differences", "receipt"}


def run(reprobox: Reprobox, project: Path, *arguments: str, engine: str = "local", code: int = 0) -> dict[str, Any]:
    """Run `reprobox run --json` and return its object."""
    return reprobox("run", "--json", "--engine", engine, *arguments, folder=project, code=code).data


def losses(report: dict[str, Any]) -> str:
    return (Path(report["run_dir"]) / "losses.tsv").read_text()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("template", ["vision", "language-model"])
def test_a_template_learns_and_its_replay_is_exact(
    template: str, engine: str, reprobox: Reprobox, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    reprobox("init", template, str(project), folder=tmp_path)
    report = run(reprobox, project, engine=engine)
    assert report.keys() >= RUN_KEYS
    assert (report["status"], report["engine"]) == ("completed", engine)
    assert not [text for text in report["warnings"] if "outside world" in text]
    metrics = json.loads((Path(report["run_dir"]) / "work" / "outputs" / "metrics.json").read_text())
    if template == "vision":
        assert metrics["accuracy"] > 0.95
    else:
        assert float(report["final_loss"]) < 0.6 * float(report["first_loss"])

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(report["manifest"], elsewhere / "manifest.yaml")
    replay = reprobox("replay", "manifest.yaml", "--json", "--engine", engine, folder=elsewhere).data
    assert replay.keys() >= REPLAY_KEYS
    assert (replay["verdict"], replay["steps_compared"]) == ("EXACT", report["steps"])
    assert replay["differences"] == []
    assert Path(replay["receipt"]).is_file()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_the_seed_alone_decides_about_the_losses(engine: str, workers: int, reprobox: Reprobox, project: Path) -> None:
    command = ["--", "python", "train.py", "--epochs", "1", "--workers", str(workers)]
    first = run(reprobox, project, *command, engine=engine)
    second = run(reprobox, project, *command, engine=engine)
    other = run(reprobox, project, "--seed", "7", *command, engine=engine)
    assert losses(first) == losses(second)
    assert losses(first) != losses(other)
    assert first["steps"] == other["steps"] > 50


@pytest.mark.docker
def test_a_manifest_alone_brings_back_the_same_image_from_an_empty_cache(
    reprobox: Reprobox, project: Path, tmp_path: Path
) -> None:
    report = run(reprobox, project, "--", "python", "train.py", "--epochs", "1", engine="docker")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(report["manifest"], elsewhere / "manifest.yaml")
    remove_image(report["manifest"])
    shutil.rmtree(project)
    cache = {"REPROBOX_CACHE": str(tmp_path / "empty-cache")}
    replay = reprobox("replay", "manifest.yaml", "--json", folder=elsewhere, env=cache).data
    assert replay["verdict"] == "EXACT"
    assert replay["image"] == {"recorded": report["image"], "rebuilt": report["image"]}
    shutil.rmtree(tmp_path / "empty-cache")


@pytest.mark.docker
def test_a_run_without_a_container_is_replayed_in_one_and_the_difference_said(
    reprobox: Reprobox, tiny: Path, tmp_path: Path
) -> None:
    report = run(reprobox, tiny)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copyfile(report["manifest"], elsewhere / "manifest.yaml")
    replay = reprobox("replay", "manifest.yaml", "--json", folder=elsewhere).data
    assert (replay["verdict"], replay["steps_compared"], replay["image"]) == ("EXACT", 12, None)
    difference, *others = replay["differences"]
    assert (difference["what"], difference["recorded"], difference["here"]) == ("engine", "local", "docker")
    assert {other["what"] for other in others} <= {"python"}  # another patch version in the base
    recorded, here = (read_manifest(Path(path)) for path in (report["manifest"], replay["run_dir"] + "/manifest.yaml"))
    assert here.lock == recorded.lock
    assert here.image is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_another_learning_rate_diverges_at_the_first_step_it_can_be_seen(
    engine: str, reprobox: Reprobox, tiny: Path, tmp_path: Path
) -> None:
    report = run(reprobox, tiny, engine=engine)
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "train.py").write_text((tiny / "train.py").read_text().replace("lr=0.1", "lr=0.2"))
    arguments = ["replay", report["manifest"], "--engine", engine, "--code", str(changed), "--json"]
    done = reprobox(*arguments, folder=tmp_path, code=1)
    # The first loss and its gradients know nothing of the learning rate: the weights after step 0 tell first.
    assert done.data["verdict"] == "DIVERGED"
    assert (done.data["first_divergence"]["what"], done.data["first_divergence"]["step"]) == ("weights", 0)
    assert [difference["what"] for difference in done.data["differences"]] == ["code"]


def test_fail_fast_stops_at_the_difference(reprobox: Reprobox, tiny: Path, tmp_path: Path) -> None:
    slow = (tiny / "train.py").read_text().replace("    print(", "    import time; time.sleep(0.5)\n    print(")
    (tiny / "train.py").write_text(slow)
    report = run(reprobox, tiny, "--", "python", "train.py", "0", "6")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "train.py").write_text(slow.replace("lr=0.1", "lr=0.2").replace("steps = int", "steps = 100 * int"))
    arguments = ["replay", report["manifest"], "--engine", "local", "--code", str(changed), "--fail-fast", "--json"]
    done = reprobox(*arguments, folder=tmp_path, code=1)
    assert done.data["first_divergence"]["step"] == 0
    assert "warning   diverged: the weights differ after optimizer step 0" in done.stderr
    assert (Path(done.data["run_dir"]) / "log.txt").read_text().count("epoch") < 600, "it was not stopped"


def test_compare_names_the_first_differing_step_and_what_was_different(reprobox: Reprobox, tiny: Path) -> None:
    first, other = run(reprobox, tiny), run(reprobox, tiny, "--seed", "7")
    same = reprobox("compare", first["run_dir"], first["manifest"], "--json", folder=tiny).data
    assert (same["verdict"], same["differences"]) == ("EXACT", [])
    done = reprobox("compare", first["run_dir"], other["run_dir"], "--json", folder=tiny, code=1)
    differing = done.data
    assert (differing["verdict"], differing["first_divergence"]["step"]) == ("DIVERGED", 0)
    assert f"DIVERGED at step 0 of {first['steps']}" in done.stderr
    assert [difference["what"] for difference in differing["differences"]] == ["seed", "PYTHONHASHSEED"]
    close = reprobox("compare", first["run_dir"], other["run_dir"], "--atol", "100", "--json", folder=tiny).data
    assert close["verdict"] == "WITHIN_TOLERANCE"


@pytest.mark.parametrize("command", ["bash -c 'python train.py'", "python -m train", "env A=1 python train.py"])
def test_any_wrapper_that_ends_in_python_is_recorded(command: str, reprobox: Reprobox, tiny: Path) -> None:
    assert run(reprobox, tiny, "--", *shlex.split(command))["steps"] == 12


def test_gradient_accumulation_and_two_processes_keep_their_order(reprobox: Reprobox, tiny: Path) -> None:
    report = run(reprobox, tiny, "--", "bash", "-c", "python -c 'import torch' && python train.py && python train.py")
    again = reprobox("replay", report["manifest"], "--engine", "local", "--json", folder=tiny).data
    assert (again["verdict"], again["steps_compared"]) == ("EXACT", 24)
    run_dir = Path(report["run_dir"])
    assert (run_dir / "losses.tsv").read_text() == (run_dir / "losses-001.tsv").read_text()


PARALLEL = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    loss = (model(torch.randn(8, 4) + dist.get_rank()) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
dist.destroy_process_group()
"""


@pytest.mark.docker
def test_processes_that_torchrun_starts_meet_in_a_container_without_a_network(reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "parallel.py").write_text(PARALLEL)
    command = ("--engine", "docker", "--json", "--", "torchrun", "--nproc-per-node", "2", "parallel.py")
    for _ in range(4):
        done = reprobox("run", *command, folder=tiny, code=None)
        if done.code == 0 or Training.GLOO_ABORTED not in done.stderr:
            break
    assert done.code == 0, done.stderr
    assert done.data["steps"] == 6
    shown = reprobox("show", done.data["manifest"], "--json", folder=tiny).data
    assert [stream["count"] for stream in shown["streams"]] == [3, 3]


def test_show_tells_a_person_and_a_program(reprobox: Reprobox, tiny: Path) -> None:
    report = run(reprobox, tiny)
    text = reprobox("show", report["run_dir"], folder=tiny).stdout
    assert "12 losses" in text and "python train.py" in text and "seed      42" in text
    data = reprobox("show", report["run_dir"], "--json", folder=tiny).data
    assert data["result"]["steps"] == 12
    assert "archive" not in data


@pytest.mark.docker
def test_image_build_gives_its_digests_and_is_the_image_of_a_run(reprobox: Reprobox, tiny: Path) -> None:
    built = reprobox("image", "build", "--json", folder=tiny).data
    assert built.keys() >= {"image_id", "config_digest", "manifest_digest", "diff_ids", "seconds"}
    assert run(reprobox, tiny, engine="docker")["image"] == built["config_digest"]


@pytest.mark.docker
def test_an_environment_that_lies_in_a_local_image_is_taken_as_it_is(reprobox: Reprobox, tiny: Path) -> None:
    base = reprobox("image", "build", "--json", folder=tiny).data["image_id"]
    report = run(reprobox, tiny, "--installed", "--base", f"local:{base}", engine="docker")
    manifest = reprobox("show", report["run_dir"], "--json", folder=tiny).data
    assert manifest["lock"]["packages"] == []
    assert any(package.startswith("torch=2.13.0") for package in manifest["image"]["base"]["packages"])
    assert reprobox("replay", report["manifest"], "--json", folder=tiny).data["verdict"] == "EXACT"


def test_doctor_says_what_works(reprobox: Reprobox, tmp_path: Path) -> None:
    data = reprobox("doctor", "--json", folder=tmp_path).data
    assert data["ok"] is True
    assert {"uv", "local engine", "cache"} <= {check["name"] for check in data["checks"]}


@pytest.mark.docker
def test_the_program_is_confined(reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "train.py").write_text(
        "import json, os, pathlib, socket\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "def refused(action):\n"
        "    try:\n        action()\n    except OSError as error:\n        return error.errno\n"
        # In a rootless engine's user namespace 0 stands for the ordinary user whose engine it is.
        "machine = pathlib.Path('/proc/self/uid_map').read_text().split()[:2] == ['0', '0']\n"
        "facts = {'root': machine and os.getuid() == 0, 'capabilities': status.split('CapEff:')[1].split()[0],\n"
        "         'new_privileges': status.split('NoNewPrivs:')[1].split()[0],\n"
        "         'writing': refused(lambda: open('/opt/x', 'w')),\n"
        "         'network': refused(lambda: socket.create_connection(('192.0.2.1', 80), 3))}\n"
        "os.makedirs('outputs')\n"
        "json.dump(facts, open('outputs/facts.json', 'w'))\n"
    )
    report = run(reprobox, tiny, engine="docker")
    facts = json.loads((Path(report["run_dir"]) / "work/outputs/facts.json").read_text())
    assert facts["root"] is False
    assert facts["capabilities"] == "0000000000000000"
    assert facts["new_privileges"] == "1"
    assert facts["writing"] is not None and facts["network"] is not None

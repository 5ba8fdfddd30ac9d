"""What goes wrong is said with what to do, ends with its own exit code, and loses nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reprobox.manifest.store import read_manifest
from reprobox.trees import remove_tree
from tests.integration.conftest import HUNG, Reprobox
from tests.integration.test_run_and_replay import ENGINES, losses, run

pytestmark = pytest.mark.network


def our_containers() -> list[str]:
    """Return what `docker ps -a` shows of the runs of these tests."""
    command = ["docker", "ps", "--all", "--quiet", "--filter", "name=reprobox-tiny-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_for_losses(runs: Path, process: subprocess.Popen[str]) -> Path:
    """Wait until the unfinished run under `runs` has recorded its first losses; return its folder."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        for stream in runs.glob("*/record/stream-*"):
            unfinished = not (stream.parent.parent / "manifest.yaml").exists()
            if unfinished and "loss" in stream.read_text():
                return stream.parent.parent
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no loss was recorded within ten minutes")


def make_endless(project: Path) -> None:
    text = (project / "train.py").read_text().replace("    print(", "    import time; time.sleep(0.3)\n    print(")
    (project / "train.py").write_text(text.replace("range(steps)", "range(10000)"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_failing_program_keeps_log_and_losses(engine: str, reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "train.py").write_text((tiny / "train.py").read_text() + "\nraise SystemExit('no more data')\n")
    report = run(reprobox, tiny, engine=engine, code=4)
    assert (report["status"], report["exit_code"], report["steps"]) == ("failed", 1, 12)
    run_dir = Path(report["run_dir"])
    assert "no more data" in (run_dir / "log.txt").read_text()
    assert len(losses(report).splitlines()) == 13
    shown = reprobox("show", str(run_dir), folder=tiny).stdout
    assert "failed" in shown


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_keeps_what_was_recorded(engine: str, reprobox: Reprobox, tiny: Path) -> None:
    make_endless(tiny)
    process = reprobox.start("run", "--engine", engine, folder=tiny)
    run_dir = wait_for_losses(tiny / "runs", process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HUNG)
    assert process.returncode == 130
    data = reprobox("show", str(run_dir), "--json", folder=tiny).data
    assert data["run"]["status"] == "interrupted"
    assert data["result"]["steps"] > 0


# Everything that a program can leave and a manifest cannot bear; and, as its home, what reprobox has to remove.
ODD = """
import os, socket
os.makedirs("outputs/b\\x1b[31m")
open("outputs/good", "w").write("1")
open("outputs/a\\nb", "w").close()
open(b"outputs/\\xff", "w").close()
os.mkfifo("outputs/pipe")
os.symlink("/etc/passwd", "outputs/way")
os.symlink("/", "outputs/root")
open("outputs/huge", "wb").truncate(10**12)
socket.socket(socket.AF_UNIX).bind("outputs/socket")
for top in ("outputs", os.environ["HOME"]):
    folder = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        folder, last = os.open("d", os.O_RDONLY, dir_fd=folder), folder
        os.close(last)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_whatever_a_program_leaves_its_run_gets_a_manifest(engine: str, reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "train.py").write_text((tiny / "train.py").read_text() + ODD)
    report = run(reprobox, tiny, engine=engine)
    manifest = read_manifest(Path(report["manifest"]))
    assert (manifest.run.status, manifest.result.steps) == ("completed", 12)
    assert [output.path for output in manifest.result.outputs] == ["outputs/good"]
    told = sorted(text.split(", ")[0] for text in report["warnings"] if text.startswith("left out of the outputs: "))
    assert [text.removeprefix("left out of the outputs: ")[:40] for text in told] == [
        "1 path of over 4095 bytes",
        "1 sparse file that was hardly written to"[:40],
        "2 links",
        "2 pipes",
        "3 entries whose names are not printable text"[:40],
    ]
    for folder in (tiny / "runs", *tiny.glob("replays")):
        remove_tree(folder)  # pytest cannot


@pytest.mark.docker
def test_nothing_is_left_after_success_failure_and_a_killed_reprobox(reprobox: Reprobox, tiny: Path) -> None:
    run(reprobox, tiny, engine="docker")
    run(reprobox, tiny, "--", "python", "-c", "raise SystemExit(3)", engine="docker", code=4)
    assert our_containers() == []
    original = (tiny / "train.py").read_text()
    make_endless(tiny)
    process = reprobox.start("run", "--engine", "docker", folder=tiny)
    wait_for_losses(tiny / "runs", process)
    process.kill()
    process.communicate(timeout=HUNG)
    assert len(our_containers()) == 1
    (tiny / "train.py").write_text(original)
    done = reprobox("run", "--engine", "docker", folder=tiny)
    assert "leftover" in done.stderr
    assert our_containers() == []


def test_a_killed_local_run_leaves_no_process(reprobox: Reprobox, tiny: Path) -> None:
    make_endless(tiny)
    (tiny / "train.py").write_text(
        "import os\nopen('pid', 'w').write(str(os.getpid()))\n" + (tiny / "train.py").read_text()
    )
    process = reprobox.start("run", "--engine", "local", folder=tiny)
    run_dir = wait_for_losses(tiny / "runs", process)
    pid = int((run_dir / "work" / "pid").read_text())
    process.kill()
    process.communicate(timeout=HUNG)
    deadline = time.monotonic() + 300
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_run_is_recovered_and_replayed_as_far_as_it_went(
    reprobox: Reprobox, tiny: Path, tmp_path: Path
) -> None:
    make_endless(tiny)
    process = reprobox.start("run", "--engine", "local", folder=tiny)
    folder = wait_for_losses(tiny / "runs", process)
    under_way = reprobox("list", "--json", folder=tiny).data["runs"]
    assert [one["state"] for one in under_way] == ["under way"]
    assert reprobox("recover", str(folder), folder=tiny, code=2).stderr.startswith("error: the run in")
    process.kill()
    process.communicate()
    (listed,) = reprobox("list", "--json", folder=tiny).data["runs"]
    assert listed["state"] == "unfinished"
    for command in (["show", str(folder)], ["compare", str(folder), str(folder)]):
        assert f"reprobox recover {folder}" in reprobox(*command, folder=tiny, code=2).stderr
    recovered = reprobox("recover", str(folder), "--json", folder=tiny).data
    assert (recovered["status"], recovered["exit_code"]) == ("interrupted", None)
    assert recovered["steps"] > 0
    assert any("reprobox was killed in this run" in text for text in recovered["warnings"])
    assert "has its manifest" in reprobox("recover", str(folder), folder=tiny, code=2).stderr
    # Without reprobox's help it would go on for an hour.
    replay = ["replay", recovered["manifest"], "--engine", "local", "--json"]
    whole = reprobox(*replay, folder=tmp_path, code=5).data
    assert whole["verdict"] == "INCOMPARABLE"
    assert whole["reason"].startswith("the recorded run was interrupted; ")
    assert "equal to the bit" in whole["reason"]
    part = reprobox(*replay, "--steps", "1", folder=tmp_path).data
    assert part["verdict"] == "EXACT"
    assert part["partial"]["steps"] == 1
    assert part["reason"].startswith(f"for the first 1 of {part['partial']['total']} optimizer steps: ")


def test_without_an_engine_the_run_is_local_and_says_so(reprobox: Reprobox, tiny: Path, tmp_path: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = reprobox("run", "--json", folder=tiny, env=nowhere)
    assert done.data["engine"] == "local"
    assert "no Docker engine answers" in done.stderr
    assert any("no Docker engine answers" in text for text in done.data["warnings"])
    refused = reprobox("run", "--json", "--engine", "docker", folder=tiny, env=nowhere, code=3)
    assert refused.data["hint"]


@pytest.mark.parametrize("packed", [False, True])
def test_without_an_engine_nothing_is_replayed_until_the_person_types_it(
    packed: bool, reprobox: Reprobox, tiny: Path, tmp_path: Path
) -> None:
    (tiny / "train.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('.')\n" + (tiny / "train.py").read_text()
    )
    manifest = run(reprobox, tiny)["manifest"]
    if packed:
        manifest = reprobox("pack", manifest, "-o", str(tmp_path / "run.rbx"), "--json", folder=tmp_path).data["file"]
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    refused = reprobox("replay", manifest, "--json", folder=elsewhere, env=nowhere, code=2)
    assert refused.data["needs"] == ["engine:local"]
    command = f"reprobox replay {manifest} --json --engine local"
    assert refused.data["hint"].endswith(command)
    assert f"no Docker engine answers at {nowhere['DOCKER_HOST']}: no such file or directory" in refused.stderr
    assert "python train.py" in refused.stderr and "nothing would confine it" in refused.stderr
    assert (tmp_path / "ran").read_text() == "."
    assert not list(elsewhere.iterdir())
    allowed = reprobox(*command.split()[1:], folder=elsewhere, env=nowhere)
    assert allowed.data["verdict"] == "EXACT"
    assert (tmp_path / "ran").read_text() == ".."


def test_a_program_without_losses_is_judged_by_its_outputs(reprobox: Reprobox, tiny: Path, tmp_path: Path) -> None:
    (tiny / "train.py").write_text("import os, sys\nos.makedirs('outputs')\nopen('outputs/a', 'w').write('one')\n")
    report = run(reprobox, tiny)
    assert (report["steps"], report["final_loss"]) == (0, None)
    assert any("the program loaded no torch: no losses" in text for text in report["warnings"])
    assert reprobox("replay", report["manifest"], "--json", "--engine", "local", folder=tiny).data["verdict"] == "EXACT"
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "train.py").write_text((tiny / "train.py").read_text().replace("'one'", "'two'"))
    arguments = ["replay", report["manifest"], "--engine", "local", "--code", str(changed), "--json"]
    done = reprobox(*arguments, folder=tiny, code=1)
    assert done.data["first_divergence"]["what"] == "outputs"


def test_a_full_disk_is_said_and_the_losses_so_far_are_kept(reprobox: Reprobox, tiny: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    make_endless(tiny)
    (tiny / "train.py").write_text((tiny / "train.py").read_text() + "    print('x' * 300_000)\n")
    runs = tiny / "runs"
    runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(runs)], check=True)
    try:
        done = reprobox("run", "--engine", "local", folder=tiny, code=3)
        assert "no space left" in done.stderr
        assert "loss\t8\t" in next(runs.glob("*/record/stream-000.records")).read_text()
    finally:
        subprocess.run(["umount", str(runs)], check=True)


def test_two_runs_at_once_in_one_folder_do_not_meet(reprobox: Reprobox, tiny: Path) -> None:
    processes = [reprobox.start("run", "--engine", "local", "--seed", str(seed), folder=tiny) for seed in (1, 2)]
    for process in processes:
        output = process.communicate(timeout=HUNG)
        assert process.returncode == 0, output
    folders = sorted((tiny / "runs").iterdir())
    assert len(folders) == 2
    seeds = {reprobox("show", str(folder), "--json", folder=tiny).data["run"]["seed"] for folder in folders}
    assert seeds == {1, 2}


def test_data_that_changed_since_is_incomparable(reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "data").mkdir()
    (tiny / "data" / "numbers.txt").write_text("1 2 3")
    (tiny / "train.py").write_text("open('data/numbers.txt').read()\n" + (tiny / "train.py").read_text())
    report = run(reprobox, tiny, "--data", "data")
    assert reprobox("replay", report["manifest"], "--json", "--engine", "local", folder=tiny).data["verdict"] == "EXACT"
    (tiny / "data" / "numbers.txt").write_text("1 2 4")
    done = reprobox("replay", report["manifest"], "--json", "--engine", "local", folder=tiny, code=5)
    assert "not what was trained on" in done.data["error"]
    assert any("numbers.txt" in detail for detail in done.data["details"])
    shutil.rmtree(tiny / "data")
    assert (
        "not here"
        in reprobox("replay", report["manifest"], "--json", "--engine", "local", folder=tiny, code=5).data["error"]
    )


def test_a_manifest_that_was_edited_is_refused(reprobox: Reprobox, tiny: Path) -> None:
    report = run(reprobox, tiny)
    path = Path(report["manifest"])
    path.write_text(path.read_text().replace("cores: ", "cores: 1", 1))
    assert "edited" in reprobox("replay", str(path), "--json", folder=tiny, code=2).data["error"]


def test_code_that_does_not_match_its_hash_is_refused(reprobox: Reprobox, tiny: Path) -> None:
    from reprobox.manifest.store import read_manifest, write_manifest

    one, other = run(reprobox, tiny), None
    (tiny / "train.py").write_text((tiny / "train.py").read_text().replace("lr=0.1", "lr=0.2"))
    other = run(reprobox, tiny)
    mixed = dataclasses.replace(
        read_manifest(Path(one["manifest"])), archive=read_manifest(Path(other["manifest"])).archive
    )
    write_manifest(mixed, tiny / "mixed.yaml")
    done = reprobox("replay", "mixed.yaml", "--json", "--engine", "local", folder=tiny, code=5)
    assert "does not match its hash" in done.data["error"]


def test_a_lock_that_no_longer_resolves_names_the_wheel(reprobox: Reprobox, tiny: Path, tmp_path: Path) -> None:
    report = run(reprobox, tiny)
    nothing = {"REPROBOX_CACHE": str(tmp_path / "empty"), "UV_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    environment = {**nothing, "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""}
    arguments = ["replay", report["manifest"], "--json", "--engine", "local"]
    done = reprobox(*arguments, folder=tmp_path, env=environment, code=3)
    assert re.search(r"no longer resolves", done.data["error"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "--", "python", "trian.py"], 2, "did you mean train.py?"),
        (["run", "--requirements", "requirments.txt"], 2, "requirements.txt"),
        (["run", "--seed", "-1"], 2, "--seed"),
        (["run", "--no-such-flag"], 2, "No such option"),
        (["replay", "nothing.yaml"], 2, "no such file"),
        (["show", "."], 2, "no manifest.yaml"),
        (["init", "visoin", "x"], 2, "did you mean vision?"),
        (["init", "vision", "."], 2, "not an empty folder"),
    ],
)
def test_bad_input_is_said_with_what_to_do(
    arguments: list[str], code: int, said: str, reprobox: Reprobox, tiny: Path
) -> None:
    done = reprobox(*arguments, folder=tiny, code=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("requirement", "said"),
    [("no-such-project-of-anybody==1", "no-such-project-of-anybody"), ("click==8.1.7\nclick==8.1.8", "click")],
)
def test_requirements_that_cannot_be_had(requirement: str, said: str, reprobox: Reprobox, tiny: Path) -> None:
    (tiny / "requirements.txt").write_text(requirement + "\n")
    done = reprobox("run", "--engine", "local", folder=tiny, code=3)
    assert said in done.stderr
    assert not (tiny / "runs").exists()

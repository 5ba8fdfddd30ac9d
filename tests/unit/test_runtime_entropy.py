"""The entropy audit in plain Python processes: what it notes and where, what it leaves alone, and derived seeds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from reprobox.engines.start_file import START_FOLDER, write_start_files
from reprobox.record.findings import read_findings, warnings_of
from reprobox.runtime import protocol
from reprobox.runtime.entropy import Audit, Findings
from reprobox.workflow.execute import lay_out_runtime
from tests.measured import measured


class Guest:
    """Runs scripts with the runtime laid out as an engine lays it out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        lay_out_runtime(self.site)
        write_start_files(self.site, site=str(self.site), record=str(folder / "record"))
        self.work = folder / "work"
        self.work.mkdir()

    def run(self, code: str, *, seed: int = 42, **env: str) -> tuple[str, dict[str, list[dict[str, Any]]]]:
        """Run the code as train.py; return its output and what the audit found."""
        record = self.folder / "record"
        shutil.rmtree(record, ignore_errors=True)
        record.mkdir()
        config = {"seed": seed, "seed_scheme": 1, "deterministic": True, "threads": 1}
        (record / protocol.CONFIG_FILE).write_text(json.dumps(config))
        (self.work / "train.py").write_text(textwrap.dedent(code))
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(self.site / START_FOLDER),
            "PYTHONHASHSEED": "42",
            **measured(),
            **env,
        }
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=self.work,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, read_findings(record, [])


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_every_draw_on_the_operating_system_is_noted_with_its_line_and_number(guest: Guest) -> None:
    code = """\
    import os, random, secrets, uuid
    for _ in range(3):
        os.urandom(4)
    random.SystemRandom().random()
    secrets.token_hex(4)
    uuid.uuid4()
    uuid.uuid1()
    random.seed()
    """
    assert guest.run(code)[1]["entropy"] == [
        {"what": "os.urandom", "where": "train.py:3", "count": 3},
        {"what": "random.SystemRandom", "where": "train.py:4", "count": 1},
        {"what": "secrets.token_hex", "where": "train.py:5", "count": 1},
        {"what": "uuid.uuid4", "where": "train.py:6", "count": 1},
        {"what": "uuid.uuid1", "where": "train.py:7", "count": 1},
        {"what": "random.seed()", "where": "train.py:8", "count": 1},
    ]


def test_a_library_is_named_by_its_place_among_the_packages(guest: Guest) -> None:
    package = guest.work / "site-packages" / "augment"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, uuid\ndef noise():\n    uuid.uuid4()\n    return os.urandom(2)\n")
    code = "import sys\nsys.path.append('site-packages')\nimport augment\naugment.noise()\n"
    assert guest.run(code)[1]["entropy"] == [{"what": "os.urandom", "where": "augment/__init__.py:4", "count": 1}]


def test_the_key_of_a_multiprocess_process_is_no_alarm(guest: Guest) -> None:
    package = guest.work / "site-packages" / "multiprocess"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nauthkey = os.urandom(32)\n")
    code = "import sys\nsys.path.append('site-packages')\nimport multiprocess\n"
    assert guest.run(code)[1] == {"entropy": [], "derived": [], "own": []}


@pytest.mark.parametrize(
    "seed",
    ["time.time()", "int(time.time())", "int(time.time() * 1000)", "time.time_ns()", "time.time_ns() // 1000",
     "str(time.time())", "int((os.getpid() + time.time()) * 1e9)"],
)  # fmt: skip
def test_the_time_as_a_seed_is_noted(guest: Guest, seed: str) -> None:
    found = guest.run(f"import os, random, time\nrandom.seed({seed})\nrandom.Random({seed})\n")[1]["entropy"]
    assert [(each["what"], each["where"]) for each in found] == [
        ("the time as seed of random.seed", "train.py:2"),
        ("the time as seed of random.Random", "train.py:3"),
    ]


def test_ordinary_seeds_are_not_taken_for_the_time(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path), run_seed=42)
    assert not any(map(audit.is_time, [0, 42, 1337, 20240101, 2**31 - 1, 2**32 - 1, 1_500_000_000, "abc", b"1", 3.5]))


def test_a_seed_of_the_programs_own_is_noted_where_the_program_asks_for_it(guest: Guest) -> None:
    package = guest.work / "site-packages" / "helper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import random\ndef seed_everything(seed):\n    random.seed(seed)\n")
    code = """\
    import random, sys
    sys.path.append('site-packages')
    import helper
    random.seed(42)
    random.seed(7)
    for step in range(3):
        helper.seed_everything(8 + step)
    random.Random(9)
    """
    assert guest.run(code, seed=42)[1] == {
        "entropy": [],
        "derived": [],
        "own": [
            # The run's own number, too: with another one of the run's, this would stay.
            {"what": "random.seed(42)", "where": "train.py:4", "count": 1},
            {"what": "random.seed(7)", "where": "train.py:5", "count": 1},
            {"what": "random.seed(8)", "where": "train.py:7", "count": 3},
        ],
    }


def test_seeds_that_child_processes_set_are_said_to_be_theirs(guest: Guest) -> None:
    code = """\
    import multiprocessing, random
    def seed():
        random.seed(7)
    child = multiprocessing.get_context("fork").Process(target=seed)
    child.start(); child.join()
    """
    found = guest.run(code, seed=42)[1]["own"]
    assert found == [{"what": "random.seed(7) in a child process", "where": "train.py:3", "count": 1}]


def test_a_state_that_the_program_sets_is_a_seed_of_its_own(guest: Guest) -> None:
    code = """\
    import random
    state = random.Random(3).getstate()
    random.setstate(state)
    """
    found = guest.run(code, seed=42)[1]["own"]
    assert found == [{"what": "random.setstate(...)", "where": "train.py:3", "count": 1}]


def test_the_run_seed_may_be_the_time(guest: Guest) -> None:
    import time

    now = int(time.time())
    code = "import random\nimport os\nrandom.seed(int(os.environ['NOW']))\n"
    assert guest.run(code, seed=now, NOW=str(now))[1]["entropy"] == []


def test_the_standard_librarys_own_draws_are_no_alarm(guest: Guest) -> None:
    code = """\
    import asyncio, email.utils, hashlib, http.cookiejar, importlib.metadata, logging, multiprocessing, shutil, tempfile
    with tempfile.TemporaryDirectory() as folder:
        for name in "abc":
            open(folder + "/" + name, "w").close()
        shutil.copytree(folder, folder + "-copy")
        shutil.rmtree(folder + "-copy")
    tempfile.NamedTemporaryFile().close()
    importlib.metadata.version("pip")
    email.utils.make_msgid()
    logging.getLogger().info("hello")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=queue.put, args=(1,))
    child.start(); queue.get(); child.join()
    """
    assert guest.run(code)[1] == {"entropy": [], "derived": [], "own": []}


def test_unsorted_listings_of_the_users_code_are_noted_by_what_was_called(guest: Guest) -> None:
    (guest.work / "data").mkdir(exist_ok=True)
    for name in "ab":
        (guest.work / "data" / name).touch()
    code = """\
    import glob, os, pathlib
    files = os.listdir("data")
    files += [entry.name for entry in os.scandir("data")]
    files += glob.glob("data/*")
    files += [str(path) for path in pathlib.Path("data").iterdir()]
    for root, folders, names in os.walk("data"):
        files.extend(names)
    files += [str(path) for path in pathlib.Path("data").glob("*")]
    train = list(files)
    ordered = sorted(pathlib.Path("data").iterdir()) + sorted(glob.glob("data/*"))
    """
    found = guest.run(code)[1]["entropy"]
    # `files` is never sorted, so each of its sources is named.
    assert [(each["what"], each["where"]) for each in found] == [
        ("unsorted os.listdir", "train.py:2"),
        ("unsorted os.scandir", "train.py:3"),
        ("unsorted glob.glob", "train.py:4"),
        ("unsorted pathlib.iterdir", "train.py:5"),
        ("unsorted os.walk", "train.py:6"),
        ("unsorted pathlib.glob", "train.py:8"),
    ]


def test_a_library_that_lists_the_users_data_unsorted_is_noted_and_others_are_not(guest: Guest) -> None:
    listing = """\
    import os
    def unsorted(folder):
        files = []
        for name in os.listdir(folder):
            files.append(name)
        return files
    def found(folder):
        return os.listdir(folder)
    def ordered(folder):
        return sorted(found(folder))
    """
    for name in ("torchvision/datasets", "elsewhere"):
        package = guest.work / "site-packages" / name
        package.mkdir(parents=True)
        (package / "folder.py").write_text(textwrap.dedent(listing))
    code = """\
    import sys
    sys.path.insert(0, "site-packages")
    import elsewhere.folder, torchvision.datasets.folder
    def train(files):
        return [open(name) for name in files if name.endswith(".py")]
    for module in (elsewhere.folder, torchvision.datasets.folder):
        train(module.ordered("."))
        train(module.unsorted("."))
    """
    assert guest.run(code)[1]["entropy"] == [
        {"what": "unsorted os.listdir", "where": "torchvision/datasets/folder.py:4", "count": 1}
    ]


def test_the_hooks_do_not_show(guest: Guest) -> None:
    code = """\
    import copy, os, pickle, shutil, traceback
    assert shutil.rmtree.avoids_symlink_attacks
    assert os.scandir in os.supports_fd and os.listdir in os.supports_fd
    assert copy.deepcopy(os.listdir)(".") == pickle.loads(pickle.dumps(os.listdir))(".") == os.listdir(".")
    import random
    assert pickle.loads(pickle.dumps(random.seed)) is random.seed and pickle.loads(pickle.dumps(os._exit)) is os._exit
    assert os.listdir.__name__ == "listdir" and callable(os.urandom) and len(os.urandom(3)) == 3
    try:
        os.listdir("missing")
    except OSError as error:
        print([frame.name for frame in traceback.extract_tb(error.__traceback__)])
    """
    assert guest.run(code)[0] == "['<module>']\n"


def test_seeding_that_fails_shows_no_frame_of_ours(guest: Guest) -> None:
    code = """\
    import random, traceback, uuid
    for wrong in (lambda: random.seed([]), lambda: random.Random([]), lambda: uuid.uuid1(node="x")):
        try:
            wrong()
        except Exception as error:
            print(*[frame.filename for frame in traceback.extract_tb(error.__traceback__)])
    """
    lines = guest.run(code)[0].splitlines()
    assert len(lines) == 3
    assert not [line for line in lines if "reprobox" in line]


def test_hash_randomisation_is_noted(guest: Guest) -> None:
    found = guest.run("pass", PYTHONHASHSEED="random")[1]["entropy"]
    assert [each["where"] for each in found] == ["environment"]


def test_generators_without_a_seed_get_one_that_depends_on_the_run(guest: Guest) -> None:
    code = "import random\nprint([random.Random().random() for _ in range(3)])\n"
    first, found = guest.run(code)
    assert guest.run(code)[0] == first
    assert guest.run(code, seed=43)[0] != first
    assert guest.run(code, RANK="1")[0] != first
    assert len(set(json.loads(first))) == 3
    assert found == {
        "entropy": [],
        "derived": [{"what": "random.Random()", "where": "train.py:2", "count": 3}],
        "own": [],
    }


def test_generators_of_the_standard_library_keep_their_own_seeds(guest: Guest) -> None:
    code = "import tempfile, random\nprint(tempfile.mktemp(), random.Random(1).random(), random.Random().random())\n"
    (one, fixed, derived), (other, *same) = (guest.run(code)[0].split() for _ in range(2))
    assert one != other
    assert same == [fixed, derived]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_process_has_streams_of_its_own_and_the_same_ones_each_time(guest: Guest, method: str) -> None:
    code = f"""\
    import multiprocessing, random
    shared = random.Random()
    def draw(queue, number):
        queue.put((number, random.Random().random(), random.Random().random()))
    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        drawn = [(9, shared.random(), random.Random().random())]
        for number in range(2):
            queue = context.SimpleQueue()
            child = context.Process(target=draw, args=(queue, number))
            child.start(); drawn.append(queue.get()); child.join()
        print([value for _, *values in drawn for value in values])
    """
    first, found = guest.run(code)
    assert guest.run(code)[0] == first
    assert len(set(json.loads(first))) == 6
    assert sum(each["count"] for each in found["derived"] if each["where"] == "train.py:4") == 4


def test_random_in_forked_children_is_seeded_not_fresh(guest: Guest) -> None:
    code = """\
    import os, random, sys
    for child in range(2):
        if os.fork() == 0:
            print(random.random(), flush=True)
            os._exit(0)
        os.wait()
    print(random.random())
    """
    first = guest.run(code)[0]
    assert guest.run(code)[0] == first
    assert len(set(first.split())) == 3


def test_what_a_killed_child_found_is_kept(guest: Guest) -> None:
    code = """\
    import os, signal
    if os.fork() == 0:
        for _ in range(5):
            os.urandom(1)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    """
    assert guest.run(code)[1]["entropy"] == [{"what": "os.urandom", "where": "train.py:4", "count": 4}]


def test_what_is_taken_back_is_gone_from_the_file_at_once_however_often(tmp_path: Path) -> None:
    def written() -> list[tuple[str, int]]:
        return [(row["where"], row["count"]) for row in read_findings(tmp_path, [])["derived"]]

    findings = Findings(str(tmp_path))
    findings.withdraw("derived", "generator", "train.py:9")
    for number in range(1, 20):
        findings.note("derived", "generator", "train.py:1")
        findings.withdraw("derived", "generator", "train.py:1")
        assert written() == [], number
    findings.note("derived", "generator", "train.py:1")
    findings.note("derived", "generator", "train.py:2")
    assert written() == [("train.py:1", 1), ("train.py:2", 1)]


def test_findings_become_sentences(tmp_path: Path) -> None:
    for number, count in enumerate((1, 3)):
        row = {"what": "os.urandom", "where": "train.py:3", "count": count}
        (tmp_path / f"entropy-{number}-1.json").write_text(json.dumps({"entropy": [row], "derived": []}))
    found = read_findings(tmp_path, [])["entropy"]
    assert warnings_of(found) == ["train.py:3 draws on the outside world: os.urandom (4 times); a replay may differ"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"entropy": 3}', '{"entropy": [{"what": 1}]}', "[" * 100_000,
     '{"entropy": [{"what": "a", "where": "b", "count": -1}]}'],
)  # fmt: skip
def test_a_damaged_or_hostile_findings_file_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "entropy-1-1.json").write_text(content)
    (tmp_path / "entropy-2-1.json").symlink_to("/dev/zero")
    assert read_findings(tmp_path, []) == {"entropy": [], "derived": [], "own": []}

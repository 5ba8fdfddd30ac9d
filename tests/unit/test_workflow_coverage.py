"""Which processes count as covered: what they say of themselves, and what is seen of real ones from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reprobox.manifest.model import UncoveredProcess
from reprobox.record.processes import Coverage, Registered, python_flags
from reprobox.workflow import kernel
from reprobox.workflow.coverage import Watcher
from reprobox.workflow.kernel import below

STARTED = "started\t{pid}\t1\t{start}\t{stack}\t{executable}\n"


def registered(record: Path, content: bytes) -> Coverage:
    (record / "processes").write_bytes(content)
    found = Registered(record)
    found.read()
    return found.coverage()


class TestRegistered:
    def test_lines_are_counted_as_they_come(self, tmp_path: Path) -> None:
        found = Registered(tmp_path)
        found.read()
        path = tmp_path / "processes"
        path.write_text(STARTED.format(pid=7, start=1, stack=100, executable="/usr/bin/python3") + "started\t8\t7\t")
        found.read()
        assert (found.started, found.stacks) == (1, {"100"})
        with path.open("a") as out:
            out.write("2\t200\t/usr/bin/python3\nloaded\t8\ttorch\n")
        found.read()
        assert (found.started, found.stacks, found.loaded) == (2, {"100", "200"}, {"torch"})

    def test_what_is_not_of_the_agreed_form_is_passed_over(self, tmp_path: Path) -> None:
        content = (
            b"started\n\n\xff\xfe\t\nstarted\t1\t2\t3\tno number\t/x\nloaded\t1\tos\nlaunched\t1\t{\n"
            b'launched\t1\t[]\nlaunched\t1\t[1]\nlaunched\t1\t"text"\nlaunched\t1\t' + b"[" * 100_000 + b"\n"
            b'launched\t1\t["/usr/bin/git", "push", "secret"]\nnonsense\t1\n'
        )
        found = registered(tmp_path, content)
        assert (found.covered, found.uncovered, dict(found.programs)) == (0, [], {"git": 1})

    @pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
    def test_only_a_plain_file_is_read(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "processes"
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            (tmp_path / "elsewhere").write_text(STARTED.format(pid=1, start=1, stack=1, executable="/x"))
            path.symlink_to(tmp_path / "elsewhere")
        found = Registered(tmp_path)
        found.read()
        assert found.started == 0

    def test_what_was_imported_past_the_runtime_is_not_covered(self, tmp_path: Path) -> None:
        line = b'missed\t7\ttorch\t["python", "child.py"]\n'
        found = registered(tmp_path, b"started\t7\t1\t2\t100\t/x\n" + line + line + b"missed\t7\ttorch\t[]\n")
        assert found.uncovered == [
            UncoveredProcess(command="python child.py", reason="it imported torch past the runtime")
        ]

    def test_a_command_is_fit_for_a_manifest_and_tells_no_home(self, tmp_path: Path) -> None:
        found = Registered(tmp_path, {"/home/alice/run/env/bin/": "", "/home/alice": "~"})
        words = ["/home/alice/run/env/bin/python", "-S", "/home/alice/x.py", "\n" * 400]
        process = found.uncovered(words, "another interpreter: /home/alice/python")
        assert process.command.startswith("python -S ~/x.py '\\n\\n")
        assert len(process.command) == 300 and process.command.isprintable()
        assert process.reason == "another interpreter: ~/python"

    def test_unwatched_a_python_without_site_counts_as_uncovered_and_no_other(self, tmp_path: Path) -> None:
        content = (
            b'launched\t1\t["/opt/env/bin/python3.11", "-IS", "train.py"]\nlaunched\t1\t["python", "-I", "-c", "-S"]\n'
        )
        found = registered(tmp_path, content)
        command = "/opt/env/bin/python3.11 -IS train.py"
        assert found.uncovered == [UncoveredProcess(command=command, reason="python -S")]
        assert not found.watched


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("python -S", "S"),
        ("python -IS x.py", "IS"),
        ("python -X dev -W error -S -m x", "S"),
        ("python -Xdev -WS x.py", ""),
        ("python x.py -S", ""),
        ("python -ISc -E", "IS"),
        ("python --version -S", "S"),
        ("python - -S", ""),
        ("python -X", ""),
    ],
)
def test_the_options_of_a_python_are_those_before_its_program(words: str, flags: str) -> None:
    assert python_flags(words.split()) == set(flags)


# Maps a file that has the name of torch's library, as the dynamic linker does, when it is told to; then waits.
CHILD = """
import mmap, os, sys
name, record = sys.argv[1:]
def register(process=os.getpid()):
    fields = open("/proc/self/stat").read().rpartition(")")[2].split()
    with open(record + "/processes", "a") as out:
        exe = os.readlink("/proc/self/exe")
        out.write("\\t".join(["started", str(process), "1", fields[19], fields[25], exe]) + "\\n")
def load(executable=mmap.PROT_EXEC):
    file = os.open(name, os.O_RDONLY)
    return mmap.mmap(file, 1, prot=mmap.PROT_READ | executable)
"""


class Tree:
    """A tree of real processes below one that is no Python."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "record"
        self.record.mkdir()
        self.library = folder / "libtorch_cpu.so"
        self.library.write_bytes(b"x")
        self.folder = folder
        self.top: subprocess.Popen[str] | None = None

    def start(
        self, code: str, *options: str, executable: str = sys.executable, before: tuple[str, ...] = ()
    ) -> Watcher:
        """Run `code` below a shell, up to where it says that it is there."""
        (self.folder / "child.py").write_text(CHILD + code + "\nprint('up', flush=True)\nsys.stdin.read()\n")
        inner = [*before, executable, *options, str(self.folder / "child.py"), str(self.library), str(self.record)]
        command = ["sh", "-c", '"$@"; exit 0', "sh", *inner]
        self.top = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.top.stdout is not None and self.top.stdout.readline() == "up\n"
        return Watcher(self.record, self.top.pid)

    def stop(self) -> None:
        if self.top is not None:
            self.top.communicate()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    found = Tree(tmp_path)
    yield found
    found.stop()


def uncovered(watcher: Watcher) -> list[str]:
    watcher.look()
    return [process.reason for process in watcher.coverage().uncovered]


class TestWatcher:
    def test_one_that_registered_before_it_loaded_is_covered(self, tree: Tree) -> None:
        watcher = tree.start("register(); kept = load()")
        assert uncovered(watcher) == []
        found = watcher.coverage()
        assert (found.covered, found.watched, dict(found.programs)) == (1, True, {})

    def test_one_that_never_registered_is_named_with_its_command(self, tree: Tree) -> None:
        watcher = tree.start("kept = load()", "-S")
        watcher.look()
        watcher.look()
        (found,) = watcher.coverage().uncovered
        assert found.reason == "python -S"
        assert found.command.startswith(f"{sys.executable} -S {tree.folder}/child.py")

    def test_one_that_only_reads_the_library_as_a_linker_does_computes_nothing(self, tree: Tree) -> None:
        assert uncovered(tree.start("kept = load(executable=0)", "-S")) == []

    @pytest.mark.skipif(shutil.which("setarch") is None, reason="setarch is not here")
    @pytest.mark.parametrize(("registered", "found"), [("", []), ("1", ["the runtime did not start in it"])])
    def test_where_a_process_has_its_stack_at_a_fixed_place_its_own_number_counts(
        self, tree: Tree, registered: str, found: list[str]
    ) -> None:
        # As if another process had registered that has its stack at the same place.
        watcher = tree.start(f"register({registered}); kept = load()", before=("setarch", "-R"))
        assert uncovered(watcher) == found

    def test_one_that_loads_nothing_is_a_program_among_others(self, tree: Tree) -> None:
        watcher = tree.start("", "-S")
        watcher.look()
        found = watcher.coverage()
        assert (found.uncovered, dict(found.programs)) == ([], {Path(sys.executable).name: 1})

    def test_another_interpreter_is_said_to_be_one(self, tree: Tree) -> None:
        other = tree.folder / "python3.9"
        other.write_bytes(Path(sys.executable).resolve().read_bytes())
        other.chmod(0o755)
        line = STARTED.format(pid=1, start=1, stack=1, executable="/usr/bin/python3.11")
        (tree.record / "processes").write_text(line)
        watcher = tree.start("kept = load()", executable=str(other))
        assert uncovered(watcher) == [f"another interpreter: {other}"]

    def test_the_environments_own_in_which_nothing_started_is_said_to_be_that(self, tree: Tree) -> None:
        executable = Path("/proc/self/exe").readlink()
        line = STARTED.format(pid=1, start=1, stack=1, executable=executable)
        (tree.record / "processes").write_text(line)
        assert uncovered(tree.start("kept = load()")) == ["the runtime did not start in it"]

    def test_a_fork_of_a_covered_one_is_covered(self, tree: Tree) -> None:
        watcher = tree.start("register(); kept = load()\nif os.fork():\n    os.wait(); os._exit(0)\nmore = load()")
        assert uncovered(watcher) == []

    def test_one_that_becomes_another_program_is_covered_no_longer(self, tree: Tree) -> None:
        again = (
            "if '-S' not in sys.orig_argv:\n"
            "    register(); kept = load()\n"
            "    os.execv(sys.executable, [sys.executable, '-S', *sys.argv[:1], *sys.argv[1:]])\n"
            "kept = load()\n"
        )
        assert uncovered(tree.start(again)) == ["python -S"]

    def test_one_that_was_not_a_python_is_named_by_its_file(self, tree: Tree) -> None:
        trainer = tree.folder / "trainer"
        trainer.write_bytes(Path(sys.executable).resolve().read_bytes())
        trainer.chmod(0o755)
        assert uncovered(tree.start("kept = load()", executable=str(trainer))) == [
            "another program: trainer with torch"
        ]

    def test_nothing_is_known_without_a_process_to_look_at(self, tmp_path: Path) -> None:
        watcher = Watcher(tmp_path, None)
        with watcher.watching():
            watcher.look()
        assert watcher.coverage() == Coverage()
        ended = Watcher(tmp_path, 0)
        with ended.watching():
            ended.look()
        assert ended.coverage() == Coverage(watched=True)

    def test_nothing_is_told_apart_where_all_stacks_begin_alike(
        self, tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "randomised").write_text("0\n")
        monkeypatch.setattr(kernel, "_RANDOMISED", tmp_path / "randomised")
        watcher = tree.start("kept = load()", "-S")
        watcher.look()
        assert watcher.coverage().watched is False

    def test_it_looks_by_itself_while_the_program_runs(self, tree: Tree) -> None:
        watcher = tree.start("kept = load()", "-S")
        with watcher.watching():
            until(lambda: bool(watcher.coverage().uncovered))
        assert [each.reason for each in watcher.coverage().uncovered] == ["python -S"]

    def test_a_process_that_has_gone_is_no_trouble(self, tree: Tree) -> None:
        watcher = tree.start("register()")
        watcher.look()
        assert tree.top is not None
        tree.top.communicate()
        watcher.look()
        assert watcher.coverage().watched
        assert below(tree.top.pid) == [tree.top.pid]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""The verdict on a training that reprobox did not start, from the record that its runtime left."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from reprobox.cli.compare import command
from reprobox.errors import IncomparableError, ReproboxError, UsageError
from reprobox.manifest.model import Manifest
from reprobox.manifest.store import read_manifest, write_manifest
from reprobox.trajectory.codec import decode_stream
from reprobox.trajectory.model import Outcome, Trajectory
from reprobox.workflow.compare import Comparison
from reprobox.workflow.compare_record import compare_record, holds_record
from reprobox.workflow.execute import configure_runtime

ASSET = Path(__file__).parent.parent / "assets" / "manifest-1.yaml"


def stream_text(trajectory: Trajectory) -> str:
    """Write a trajectory of one optimizer as the runtime had written it."""
    lines = ["reprobox-stream\t1", f"process\t{trajectory.role}"]
    lines += [f"loss\t{one.step}\t{one.optimizer_step}\t{one.dtype}\t{one.bits}" for one in trajectory.losses]
    lines += [f"optimizer\t{at}\t{one.training}\t{one.kind}" for at, one in enumerate(trajectory.optimizers)]
    lines += [f"step\t{number}\t0" for number in range(trajectory.optimizer_steps)]
    lines += [
        f"digest\t{one.optimizer_step}\t{one.what}\t{one.optimizer}\t{one.round}\t{one.value}"
        for one in trajectory.digests
    ]
    lines += [
        f"tensor\t{one.optimizer_step}\t{one.what}\t{'-' if one.optimizer is None else 0}\t{one.name}\t{one.value}"
        for one in trajectory.tensors
    ]
    lines += [
        f"metric\t{name}\t{at}\t-\t{dtype}\t{bits}"
        for name, series in trajectory.metrics.items()
        for at, (dtype, bits) in zip(series.at, series.numbers.each(), strict=True)
    ]
    lines += [f"final\t{at}\t{one.weights}" for at, one in enumerate(trajectory.optimizers)]
    return "\n".join([*lines, "end", ""])


class Trained:
    """A folder that was trained in as the run of the manifest was."""

    def __init__(self, root: Path) -> None:
        self.manifest: Manifest = read_manifest(ASSET)
        self.run, self.folder, self.record = root / "run", root / "cluster", root / "cluster" / "record"
        self.run.mkdir()
        self.record.mkdir(parents=True)
        configure_runtime(self.manifest.spec, self.record)
        self.trajectory = decode_stream(self.manifest.streams[0])
        self.write(self.trajectory)

    def write(self, trajectory: Trajectory, number: int = 0) -> None:
        (self.record / "processes").write_text("started\t1\t0\t100\t1000\t/usr/bin/python3.11\n")
        (self.record / f"stream-{number:03d}.records").write_text(stream_text(trajectory))

    def configured(self, **changes: object) -> None:
        path = self.record / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def compare(self) -> Comparison:
        write_manifest(self.manifest, self.run / "manifest.yaml")
        return compare_record(self.run, self.folder, tolerance=None)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return Trained(tmp_path)


def test_the_same_losses_digests_and_weights_are_exact(trained: Trained) -> None:
    found = trained.compare()
    assert found.verdict.outcome is Outcome.EXACT
    assert found.verdict.reason == (
        "all 40 losses, 11 digests, 1 metric, 9 tensors of the final state and the final weights are equal to the bit"
    )
    assert (found.steps_recorded, found.differences) == (40, [])
    assert found.note is not None and "not looked at" in found.note


def test_metrics_that_stood_in_files_are_not_looked_at(trained: Trained) -> None:
    metric = replace(trained.manifest.streams[0].metrics[0], name="metrics.json:accuracy")
    result = trained.manifest.result
    metrics = {**result.metrics, "metrics.json:accuracy": result.metrics["accuracy"]}
    trained.manifest = replace(
        trained.manifest,
        spec=replace(trained.manifest.spec, metrics=("metrics.json",)),
        result=replace(result, metric_files=(metric,), metrics=dict(sorted(metrics.items()))),
    )
    assert trained.compare().verdict.outcome is Outcome.EXACT


def test_other_weights_alone_are_a_divergence(trained: Trained) -> None:
    other = replace(trained.trajectory.optimizers[0], weights="sha256:" + "0" * 64)
    trained.write(replace(trained.trajectory, optimizers=(other,)))
    found = trained.compare()
    assert found.verdict.outcome is Outcome.DIVERGED
    assert found.verdict.first_divergence is not None and found.verdict.first_divergence.what == "final"


def test_what_the_training_was_told_and_said_of_itself_is_held_against_the_run(trained: Trained) -> None:
    trained.configured(seed=7, deterministic=False)
    facts = {"software": {"python": "3.11.2", "torch": "2.9.0"}, "determinism": {"cpu_capability": "AVX2"}}
    (trained.record / "facts-000.json").write_text(json.dumps(facts))
    assert trained.compare().differences == [
        {"what": "seed", "recorded": "42", "here": "7"},
        {"what": "deterministic", "recorded": "true", "here": "false"},
        {"what": "torch", "recorded": "2.13.0+cpu", "here": "2.9.0"},
        {"what": "cpu capability", "recorded": "AVX512", "here": "AVX2"},
    ]


@pytest.mark.parametrize("facts", ["[]", "{", '{"software": 1, "determinism": [2]}'])
def test_facts_that_are_none_are_passed_over(trained: Trained, facts: str) -> None:
    (trained.record / "facts-000.json").write_text(facts)
    assert trained.compare().differences == []


def refusal(trained: Trained, error: type[ReproboxError]) -> str:
    with pytest.raises(error) as caught:
        trained.compare()
    return "\n".join([caught.value.message, *caught.value.details])


def test_a_folder_that_nobody_trained_in_is_said_to_be_empty(trained: Trained) -> None:
    for name in ("processes", "stream-000.records"):
        (trained.record / name).unlink()
    assert "nothing has been trained into" in refusal(trained, UsageError)


def test_a_training_that_recorded_no_loss_diverged(trained: Trained) -> None:
    (trained.record / "stream-000.records").unlink()
    assert trained.compare().verdict.outcome is Outcome.DIVERGED


def test_two_trainings_in_one_folder_are_no_record_of_either(trained: Trained) -> None:
    trained.write(trained.trajectory, number=1)
    assert "holds the records of 2 processes, the run had 1" in refusal(trained, UsageError)


def test_another_seeding_scheme_is_incomparable(trained: Trained) -> None:
    trained.configured(seed_scheme=2)
    assert "was seeded by scheme 2, the run by scheme 1" in refusal(trained, IncomparableError)


def test_a_folder_without_its_configuration_is_refused(trained: Trained) -> None:
    (trained.record / "config.json").unlink()
    assert "no config.json in" in refusal(trained, UsageError)


def test_a_record_of_a_later_version_is_refused_by_file_and_line(trained: Trained) -> None:
    (trained.record / "stream-000.records").write_text("reprobox-stream\t2\n")
    assert "stream-000.records, line 1: stream version '2', this reprobox reads 1" in refusal(trained, UsageError)


def test_a_run_without_losses_is_incomparable(trained: Trained) -> None:
    # `result` names what the streams hold.
    result = replace(
        trained.manifest.result,
        steps=0,
        optimizer_steps=0,
        first_loss=None,
        final_loss=None,
        weights=None,
        metrics={},
    )
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    trained.manifest = replace(trained.manifest, streams=(), result=replace(result, trajectory=empty))
    assert trained.compare().verdict.outcome is Outcome.INCOMPARABLE


def test_a_folder_of_a_run_is_told_from_one_that_holds_a_record_alone(trained: Trained) -> None:
    assert holds_record(trained.folder)
    (trained.folder / "manifest.yaml").touch()
    assert not holds_record(trained.folder)
    assert not holds_record(trained.folder / "manifest.yaml")


def test_the_command_answers_as_for_two_runs(trained: Trained) -> None:
    trained.compare()
    arguments = ["--json", str(trained.run), str(trained.folder)]
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    answer = json.loads(done.stdout)
    assert (answer["verdict"], answer["steps_compared"], answer["receipt"]) == ("EXACT", 40, None)
    assert done.return_value == 0
    trained.write(replace(trained.trajectory, losses=trained.trajectory.losses.part(0, 5)))
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert (done.return_value, json.loads(done.stdout)["verdict"]) == (1, "DIVERGED")


def test_a_training_that_started_what_nobody_recorded_is_incomparable(trained: Trained) -> None:
    with (trained.record / "processes").open("a") as out:
        out.write('launched\t1\t["python", "-S", "stage.py"]\n')
    verdict = trained.compare().verdict
    assert verdict.outcome is Outcome.INCOMPARABLE
    assert verdict.reason == "in this run this was neither seeded nor recorded: python -S stage.py (python -S)"

"""Which metrics are judged: what trainers log of the clock and the machine is not, and nothing that may be a result is
taken for it.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprobox.runtime.metrics import NAME, UNJUDGED, fitted, unjudged

CLOCK = """
train_runtime eval_runtime eval/runtime eval_samples_per_second eval_steps_per_second train/train_steps_per_second
train_tokens_per_second eval_model_preparation_time eval_jit_compilation_time init_mem_cpu_alloc_delta
train_mem_gpu_peaked_delta before_init_mem_cpu step_time profiling/Time_taken:_GRPOTrainer.compute_loss timing_s/reward
DeviceStatsMonitor.on_train_batch_start/cpu_percent DeviceStatsMonitor.on_train_batch_end/allocated_bytes.all.current
train/time train/device/batches_per_sec train/device/flops_per_sec train/device/mfu train/samples_per_sec train|time
time/fps time/time_elapsed time/iterations time/ppo/forward_pass charts/SPS mfu mfu(%) data_time batch_time
samples_per_second_per_gpu iteration-time memory eta_seconds tokens_per_second_per_gpu
peak_memory_active memory/max_active(GiB) memory/peak_allocated_mem time_metrics/end_to_end(s) throughput(tps)
throughput/device/samples_per_sec system/cpu_utilization_percentage system/gpu_0_memory_usage_megabytes
system/network_receive_megabytes _timestamp _runtime timestamp wall_time time_this_iter_s time_total_s learn_time_ms
learn_throughput perf/throughput perf/max_memory_allocated_gb perf/time_per_step train_wall wps
gb_free gpu_mem epoch_seconds epoch_time EPOCH_TIME tokens/sec perf/it/s alloc_retries
outputs/metrics.json:train_runtime outputs/metrics.json:time.fps outputs/metrics.csv:time
"""
RESULTS = """
accuracy val/acc loss epoch step iter lr learning_rate grad_norm total_flos num_input_tokens_seen tokens_per_step
num_tokens train/loss_scale perplexity flops params gflops rollout/ep_rew_mean rollout/ep_len_mean num_timesteps eps
val_time_series_mae timestep_loss time_steps time_loss loss_time time_to_goal mean_survival_time waiting_time lap_time
memory_loss memory_bank_acc memory/recall system/acc runtime_error_rate eta_mae realtime_factor fps_loss
time/mae f1/TIME iou/wall precision/memory throughput_net/acc per_second/accuracy
outputs/time/metrics.json outputs/time/metrics.json:accuracy runtime/metrics.json:acc throughput/m.csv:top1
"""


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("name", [*words(CLOCK), "Iteration Time", "train_step_timing in s", "gpu memory (MB)"])
def test_what_trainers_log_of_the_clock_and_the_machine_is_not_judged(name: str) -> None:
    assert unjudged(name)


@pytest.mark.parametrize("name", words(RESULTS))
def test_what_may_be_a_result_is_judged(name: str) -> None:
    assert not unjudged(name)


def test_each_pattern_of_the_list_fits_what_it_says() -> None:
    for pattern in UNJUDGED:
        assert unjudged(pattern.replace("*", "x")), pattern


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("debug/queue", "debug/*"),
        ("train/eps", "eps"),
        ("Train/EPS", "*/eps"),
        ("train-queue", "train_queue"),
        ("train-queue", "train-queue"),
        ("p95", "p[0-9]*"),
        ("outputs/m.json:eps", "eps"),
        ("outputs/m.json:a.b", "a.b"),
        ("outputs/m.json:a.b", "outputs/m.json:*"),
    ],
)
def test_patterns_of_ones_own_are_for_the_whole_name_or_its_last_part(name: str, pattern: str) -> None:
    assert not unjudged(name)
    assert unjudged(name, ("nothing", pattern))
    assert not unjudged(name, ("nothing", "quite", "another"))


@given(st.text(), st.lists(st.text()))
def test_no_name_and_no_pattern_is_too_odd(name: str, patterns: list[str]) -> None:
    assert unjudged(name, tuple(patterns)) in (True, False)


@given(st.text(st.characters(), max_size=600))
def test_any_name_is_made_one_line_of_at_most_200_characters(name: str) -> None:
    made = fitted(name)
    assert NAME.fullmatch(made)
    assert made.isprintable()
    assert fitted(made) == made


def test_a_name_that_fits_is_kept_and_what_does_not_is_escaped_or_cut_where_it_says_least() -> None:
    for name in ("val/acc", "mAP@50(B)", "точность 2", "准确率", "F₁ → α", 'a "b" \\ c'):
        assert fitted(name) == name
    assert fitted("a\tb\x1b[0m\u202e\n\ud800\U0001f600") == "a\\tb\\x1b[0m\\u202e\\n\\ud800\\U0001f600"
    assert (fitted(""), fitted(7)) == ("(no name)", "7")
    long = [fitted("train/" + "x" * 300 + end + "x" * 300 + "/step_time") for end in "ab"]
    assert [(len(name), name[:6], name[-10:], unjudged(name)) for name in long] == [
        (200, "train/", "/step_time", True)
    ] * 2
    assert long[0] != long[1]

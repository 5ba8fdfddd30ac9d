"""Which metrics a replay need not repeat: the clock, what is divided by it, and the state of the machine.

Whatever may be a result of a training is judged, even if it sounds like time or memory (`mean_survival_time`,
`memory_loss`). An honest replay that is told to differ is noticed at once, and `unjudged_metrics` in reprobox.yaml
mends it; a result that nobody compares is never noticed.

The names are those that trainers log: Hugging Face's Trainer and trl, Lightning's monitors, Composer, torchtitan,
torchtune, timm, OpenCLIP, MMEngine, Detectron2, fairseq, Megatron-LM, nanoGPT, verl, RLlib, Stable-Baselines3, CleanRL,
MLflow's system metrics.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import Any, Callable

# What is timed and counted.
_TIMED = (
    "epoch", "step", "batch", "data", "iter", "iteration", "forward", "backward", "optimizer", "train", "training",
    "eval", "evaluation", "validation", "inference", "generation", "rollout", "sampling", "loading", "load", "fit",
    "learn", "run", "preparation", "compilation", "compute", "checkpoint", "save", "env", "cpu", "gpu", "wall",
)  # fmt: skip
_COUNTED = (
    "samples", "tokens", "steps", "batches", "items", "images", "imgs", "frames", "iterations", "iters", "examples",
    "words", "sequences", "seqs", "flops", "epochs", "updates", "episodes", "requests", "sentences", "records",
    "graphs", "nodes", "edges", "clips", "videos", "queries", "bytes",
)  # fmt: skip
# These are names of tasks, classes and simulated quantities too: where any part of the whole name says what was
# measured (`f1/time`, `time/mae`), they are judged.
_DOUBTFUL = ("time", "time/*", "*/time/*", "memory", "mem", "throughput", "*_throughput")
# As fnmatch has them, for names in lower case with underscores. One without a slash is for the last part of a name: so
# `fps` is `time/fps` too, and a group or a file called `runtime` does not take all that is in it. One with a slash is
# for the whole name.
UNJUDGED: tuple[str, ...] = (
    *_DOUBTFUL,
    # the clock
    "timestamp", "*_timestamp", "datetime", "*runtime", "walltime", "*wall_clock*", "train_wall", "*elapsed",
    "time_elapsed*", "eta_s", "eta_sec*", "total_time", "val_time", "test_time", "time_total*", "time_this_iter*",
    "time_since_*", "time_per_*", "timing/*", "timings/*", "timing_s/*", "timers/*", "time_metrics/*", "profiling/*",
    *("%s%s_%s" % (before, word, what) for word in _TIMED for before in ("", "*_") for what in ("time", "timing")),
    *("%s_%s" % (word, what) for word in _TIMED for what in ("duration", "seconds", "secs", "sec", "ms")),
    # what is divided by it
    "*fps", "sps", "*_sps", "ips", "wps", "ups", "mfu", "*_mfu", "mfu_*", "mfu(*", "mfu/*", "*/mfu/*", "hfu", "tflops",
    "*_tflops", "tflops_per_*", "throughput_*", "throughput(*", "throughput/*",
    *("*%s_per_%s" % (counted, unit) for counted in _COUNTED for unit in ("s", "sec*")),
    *("%s_per_sec*" % counted for counted in ("it", "iter", "step", "img", "sample", "batch", "token")),
    *("*%s/%s" % (counted, unit) for counted in _COUNTED for unit in ("s", "sec", "second")),
    *("%s/%s" % (counted, unit) for counted in ("it", "*/it", "tok", "*/tok", "img", "*/img") for unit in ("s", "sec")),
    # the machine
    "*gpu_mem*", "*cuda_mem*", "*cpu_mem*", "*_mem_gpu*", "*_mem_cpu*", "max_mem", "max_memory*", "peak_mem",
    "peak_memory*", "*memory_alloc*", "*memory_reserved*", "*memory_used*", "*memory_usage*", "allocated_memory*",
    "reserved_memory*", "mem_allocated*", "mem_reserved*", "mem_max_*", "memory/max_*", "memory/*_mem",
    "memory/*_bytes", "*alloc_retries", "*num_ooms", "gb_free", "gpu_util*", "*_gpu_util*", "cpu_util*", "cpu_percent",
    "gpu_temp*", "gpu_power*", "ram_percent", "devicestatsmonitor/*",
    *("system/%s_*" % part for part in ("cpu", "gpu", "disk", "network", "system", "memory")),
)  # fmt: skip
_RESULT = re.compile(
    r"(?:^|_)(?:loss|losses|acc|accuracy|error|err|mae|mse|rmse|mape|nll|f1|auc|auroc|m?ap|precision|recall|score|r2|m?iou|"
    r"dice|bleu|reward|return|ppl|perplexity|correlation)(?:_|$)"
)
_UNIT = re.compile(
    r"(time|timing|elapsed|memory|mem)[_(]*(?:in_)?(?:s|secs?|seconds?|ms|minutes|h|hours|[kmgt]i?b|bytes)\)?$"
)
# A file of metrics: its folder's name says nothing about what is in it.
_FILE = re.compile(r".*?\.(?:json|jsonl|ndjson|ya?ml|csv|tsv)(?::|$)")


def unjudged(name: str, extra: tuple[str, ...] = ()) -> bool:
    """Say whether a metric is one that a replay need not repeat, by its name: it fits UNJUDGED, or the whole name or
    its last part fits one of the patterns `extra` (of fnmatch).

    Upper and lower case are the same, and so are blanks, hyphens and underscores. Parts end at `/`, `.`, `:` and `|`.
    """
    typed = name.strip().lower()
    plain = re.sub(r"[\s-]", "_", typed)
    inner = _FILE.sub("", plain, 1)
    if extra:
        chosen = _any_of(tuple(pattern.lower() for pattern in extra))
        if any(chosen(each) for each in (typed, plain, inner, _last(typed), _last(plain))):
            return True
    last, path = _UNIT.sub(r"\1", _last(inner)), re.sub("[.|]", "/", inner)
    if _any_of(_SURE_LAST)(last) or _any_of(_SURE_WHOLE)(path):
        return True
    if _any_of(_DOUBTFUL)(last) or _any_of(_DOUBTFUL)(path):
        return not _RESULT.search(re.sub("[^a-z0-9]", "_", inner))
    return False


_SURE = tuple(pattern for pattern in UNJUDGED if pattern not in _DOUBTFUL)
_SURE_LAST = tuple(pattern for pattern in _SURE if "/" not in pattern)
_SURE_WHOLE = tuple(pattern for pattern in _SURE if "/" in pattern)


def _last(name: str) -> str:
    return re.split("[/.:|]", name)[-1]


@functools.lru_cache(maxsize=64)
def _any_of(patterns: tuple[str, ...]) -> Callable[[str], Any]:
    return re.compile("|".join(map(fnmatch.translate, patterns))).match

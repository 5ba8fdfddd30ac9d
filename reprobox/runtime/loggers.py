"""Hooks into loggers: every number that the program logs is recorded, whichever of them it calls.

Seen are TensorBoard (torch's and tensorboardX's writer), MLflow, wandb, Lightning (also without a logger), Fabric, and
Hugging Face's Trainer; docs/determinism.md says which test shows it. A logger that calls another one, as Lightning
calls TensorBoard, is recorded alone: the outermost has what the program said, in its own dtype.
"""

from __future__ import annotations

import functools
import threading
import weakref
from typing import Any, Callable, Iterable

from . import hooks
from .recorder import Recorder

# Name, value and step of each metric that a call logs.
Logged = Iterable[tuple[Any, Any, Any]]

_DEEPEST = 32


class _Thread(threading.local):
    inside = False


class Loggers:
    """The hooks of one process, all of which report to one recorder."""

    def __init__(self, recorder: Recorder) -> None:
        """Prepare; `install` sets the hooks."""
        self._recorder = recorder
        self._thread = _Thread()
        # By Lightning's connector: the step whose metrics its loggers were last given.
        self._lightning_steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Set each hook when the module that it belongs to is imported."""
        for name, attach in (
            ("torch.utils.tensorboard.writer", self._attach_tensorboard),
            ("tensorboardX.writer", self._attach_tensorboard),
            ("mlflow.tracking.client", self._attach_mlflow),
            ("mlflow.utils.autologging_utils", self._attach_mlflow_batches),
            ("mlflow.utils.autologging_utils.client", self._attach_mlflow_queue),
            ("mlflow.pytorch._lightning_autolog", self._attach_mlflow_lightning),
            ("wandb.sdk.wandb_run", self._attach_wandb),
            ("lightning.pytorch.trainer.connectors.logger_connector.logger_connector", self._attach_lightning),
            ("pytorch_lightning.trainer.connectors.logger_connector.logger_connector", self._attach_lightning),
            ("lightning.fabric.fabric", self._attach_fabric),
            ("lightning_fabric.fabric", self._attach_fabric),
            ("lightning.fabric.loggers.csv_logs", self._attach_csv),
            ("lightning_fabric.loggers.csv_logs", self._attach_csv),
            ("transformers.trainer", self._attach_trainer),
            ("transformers.integrations.integration_utils", self._attach_integrations),
        ):
            hooks.after_import(name, functools.partial(self._attach_to, attach))

    def _attach_to(self, attach: Callable[[Any], None], module: Any) -> None:
        try:
            attach(module)
        except Exception as error:  # never into the user's import
            self._failed(module.__name__, error)

    def _failed(self, what: str, error: Exception) -> None:
        self._recorder.warn("what is logged by %s is not recorded: %s: %s" % (what, type(error).__name__, error))

    def _hook(
        self, owner: Any, name: str, logged: Callable[..., Logged] | None = None, *, passes_on: bool = True
    ) -> None:
        """Record what `logged(*args, **kwargs)` says of a call of the method `name`; nothing without it.

        With `passes_on`, what is logged within that call is what was recorded already, and not recorded again.
        """
        original = getattr(owner, name)
        thread = self._thread

        def record(args: Any, kwargs: Any) -> None:
            assert logged is not None
            try:
                self._record(logged(*args, **kwargs))
            except Exception as error:  # never into the user's program
                self._failed("%s.%s" % (owner.__name__, name), error)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            outermost = not thread.inside
            if outermost and logged is not None:
                hooks.uncompiled(record, args, kwargs)
            thread.inside = passes_on or not outermost
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            finally:
                thread.inside = not outermost

        # Where the compiler may break the graph it does so here, as it does inside the logger.
        wrapper._torchdynamo_disable = True  # type: ignore[attr-defined]
        setattr(owner, name, wrapper)
        keep_away = functools.partial(hooks.keep_compiler_away, function=wrapper)
        hooks.after_import("torch", functools.partial(self._attach_to, keep_away))

    def _record(self, logged: Logged) -> None:
        from .metrics import capture  # most processes log nothing

        for name, value, step in logged:
            capture(self._recorder, name, value, step)

    # TensorBoard

    def _attach_tensorboard(self, module: Any) -> None:
        def scalar(writer: Any, tag: Any, scalar_value: Any, global_step: Any = None, *_: Any, **__: Any) -> Logged:
            yield tag, scalar_value, global_step

        def scalars(
            writer: Any, main_tag: Any, tag_scalar_dict: Any, global_step: Any = None, *_: Any, **__: Any
        ) -> Logged:
            for tag, value in tag_scalar_dict.items():
                yield "%s/%s" % (main_tag, tag), value, global_step

        self._hook(module.SummaryWriter, "add_scalar", scalar)
        self._hook(module.SummaryWriter, "add_scalars", scalars)

    # MLflow: `mlflow.log_metric` and its like all go through a client

    def _attach_mlflow(self, module: Any) -> None:
        def metric(
            client: Any, run_id: Any, key: Any, value: Any, timestamp: Any = None, step: Any = None, *_: Any, **__: Any
        ) -> Logged:
            yield key, value, step

        def batch(client: Any, run_id: Any, metrics: Any = (), *_: Any, **__: Any) -> Logged:
            for each in metrics:
                yield each.key, each.value, each.step

        self._hook(module.MlflowClient, "log_metric", metric)
        self._hook(module.MlflowClient, "log_batch", batch)

    # What MLflow logs by itself reaches its client late, when the clock says so or from another thread: it is recorded
    # where it was logged, and not once more there.

    def _attach_mlflow_batches(self, module: Any) -> None:
        def recorded(logger: Any, metrics: Any, step: Any = None) -> Logged:
            for name, value in metrics.items():
                yield name, value, step

        self._hook(module.BatchMetricsLogger, "record_metrics", recorded)
        self._hook(module.BatchMetricsLogger, "flush")

    def _attach_mlflow_queue(self, module: Any) -> None:
        def queued(client: Any, run_id: Any, metrics: Any, step: Any = None, *_: Any, **__: Any) -> Logged:
            for name, value in metrics.items():
                yield name, value, step

        self._hook(module.MlflowAutologgingQueueingClient, "log_metrics", queued)
        self._hook(module.MlflowAutologgingQueueingClient, "_flush_pending_operations")

    def _attach_mlflow_lightning(self, module: Any) -> None:
        # What Lightning has logged already.
        for name in ("_log_metrics", "on_test_end"):
            self._hook(vars(module)["__MlflowPLCallback"], name)

    # wandb

    def _attach_wandb(self, module: Any) -> None:
        def log(run: Any, data: Any, step: Any = None, *_: Any, **__: Any) -> Logged:
            for name, value in _flat(data):
                yield name, value, step

        self._hook(module.Run, "log", log)

    # Lightning: `self.log` keeps a value per step, and one for the epoch that all its batches have made

    def _attach_lightning(self, module: Any) -> None:
        connector_class = module._LoggerConnector

        def step(connector: Any, metrics: Any, step: Any = None) -> Logged:
            # Called whenever loggers would be given something, also when there are none.
            if step is None:
                step = connector.trainer.fit_loop.epoch_loop._batches_that_stepped
                self._lightning_steps[connector] = step
            for name, value in metrics.items():
                yield name, value, step

        def epoch(connector: Any, *_: Any, **__: Any) -> Logged:
            # All that `callback_metrics` holds, also what no logger is given (`logger=False`). Lightning has computed
            # it before, so nothing is waited for.
            trainer = connector.trainer
            results = trainer._results
            if trainer.sanity_checking or results is None:
                return
            at = trainer.fit_loop.epoch_loop._batches_that_stepped
            for result in results.values():
                if result.has_reset:
                    continue
                if result.meta.on_epoch:
                    value = result._computed
                elif results.training and self._lightning_steps.get(connector) != at:
                    value = result._forward_cache  # of the last step
                else:
                    continue
                yield results._forked_name(result, False)[1], value, at

        self._hook(connector_class, "log_metrics", step)
        self._hook(connector_class, "update_train_epoch_metrics", epoch)
        self._hook(connector_class, "log_eval_end_metrics", epoch)

    def _attach_fabric(self, module: Any) -> None:
        def log_dict(fabric: Any, metrics: Any, step: Any = None) -> Logged:
            for name, value in metrics.items():
                yield name, value, step

        self._hook(module.Fabric, "log_dict", log_dict)

    def _attach_csv(self, module: Any) -> None:
        # What a callback or the program itself gives to `logger.log_metrics`; the other loggers are hooked above.
        def log_metrics(writer: Any, metrics_dict: Any, step: Any = None) -> Logged:
            for name, value in metrics_dict.items():
                yield name, value, step

        self._hook(module._ExperimentWriter, "log_metrics", log_metrics)

    # Hugging Face

    def _attach_trainer(self, module: Any) -> None:
        def log(trainer: Any, logs: Any, *_: Any, **__: Any) -> Logged:
            for name, value in logs.items():
                yield name, value, trainer.state.global_step

        # The program's own callbacks are called within, and what they log is theirs.
        self._hook(module.Trainer, "log", log, passes_on=False)

    def _attach_integrations(self, module: Any) -> None:
        for callback in list(vars(module).values()):
            if isinstance(callback, type) and "on_log" in vars(callback):
                self._hook(callback, "on_log")


def _flat(data: Any, before: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """Yield what maps within maps hold, their keys joined by dots."""
    for key, value in data.items():
        name = before + str(key)
        if hasattr(value, "items") and not hasattr(value, "dtype"):
            if depth < _DEEPEST:
                yield from _flat(value, name + ".", depth + 1)
        else:
            yield name, value

"""Hooks into torch: sees every loss and every optimizer step, however the user's program writes its training loop.

What is caught, how, and by which test, stands in docs/determinism.md. Each hook calls the recorder and then torch's own
function with the arguments as given. Our frames are left out of the user's tracebacks, and out of what torch.compile
traces: a compiled graph is the one that it would be without us.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from typing import Any, Callable

from . import hooks
from .loaders import LOADER_NUMBER
from .recorder import Recorder

_UNSCALED = (None, 1.0, None)


class _Thread(threading.local):
    """What this thread is doing: is it inside a backward pass, and what is its next loss multiplied by?"""

    # Of the class, as looking up what a thread-local object does not have is slow.
    inside = False
    factor = 1.0
    steps_before = 0


class Capture:
    """The hooks of one process, all of which report to one recorder."""

    def __init__(self, torch: Any, recorder: Recorder) -> None:
        """Prepare; `attach` sets the hooks."""
        self._torch = torch
        self._recorder = recorder
        self._thread = _Thread()
        self._graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
        # By id: a tensor that is known to be a loss times a number, times a tensor (of a GradScaler) if there is one.
        self._scaled: dict[int, tuple[weakref.ref[Any], float, Any]] = {}
        self._graph: list[tuple[Callable[..., None], tuple[Any, ...]]] | None = None
        self._graphs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._tracing = _compiler_test(torch, "is_compiling")
        self._tracing_code = _compiler_test(torch, "is_dynamo_compiling")
        self._traced_whole = self._noticing_compiler()
        self._noticed_losses = self._noticing_losses()
        for function in (Capture._guarded, Capture._nested, hooks.uncompiled, hooks.without_own_frame):
            self._keep_compiler_away(function)

    def attach(self) -> None:
        """Set all hooks, now or when the module that they belong to is imported."""
        torch = self._torch
        self._recorder.attach(torch)
        self._wrap_backward(torch.autograd)
        self._wrap(torch.autograd, "grad", compiled=self._noticed_losses, before=self._grad, generators=True)
        # By its module's name: `torch.optim` deletes its attribute `optimizer` once it is loaded.
        sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook(self._step_hook())
        for name, attach in (
            ("torch.amp.grad_scaler", self._attach_scaler),
            ("torch._functorch.eager_transforms", self._attach_functorch),
            ("torch.cuda.graphs", self._attach_graphs),
            ("torch.utils.data.dataloader", self._attach_batches),
            ("accelerate.accelerator", self._attach_accelerate),
            ("lightning.pytorch.loops.optimization.automatic", self._attach_lightning),
            ("pytorch_lightning.loops.optimization.automatic", self._attach_lightning),
        ):
            hooks.after_import(name, functools.partial(self._attach_to, attach))
        if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 3):
            # Its compiler takes the hooks off optimizers, and torch.func has no function that all goes through.
            self._recorder.warn(
                "torch %s is older than 2.3: optimizer steps of programs that use torch.compile, and losses of "
                "torch.func, are not recorded" % torch.__version__
            )

    def _attach_to(self, attach: Callable[[Any], None], module: Any) -> None:
        try:
            attach(module)
        except Exception as error:  # never into the user's import
            self._recorder.warn("%s: %s: %s" % (module.__name__, type(error).__name__, error))

    # What the hooks do

    def _losses(self, tensors: tuple[Any, ...]) -> None:
        """Record the roots of a backward pass."""
        for tensor in tensors:
            if isinstance(tensor, self._torch.Tensor):  # the others are edges of a graph, which have no value
                self._loss(tensor)

    def _loss(self, tensor: Any, event: str = "backward") -> None:
        # Most trainings scale nothing, and a call of `id` is an event that audit hooks are told of.
        _, factor, scale = self._scaled.get(id(tensor), _UNSCALED) if self._scaled else _UNSCALED
        factor *= self._thread.factor
        if hasattr(tensor, "to_local"):
            tensor = tensor.detach().to_local()
        if self._graph is not None and self._capturing(tensor):
            # The copy is part of the graph: after each replay it holds that replay's loss.
            value = tensor.detach().clone()
            self._later(self._recorder.loss, value, event, factor, None if scale is None else scale.clone())
        else:
            self._recorder.loss(tensor, event, factor, scale)

    def _grad(self, outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> None:
        """Record `torch.autograd.grad` where it is the training's own: of one scalar, for parameters, and final.

        Gradient penalties and higher derivatives go on into another loss, which is recorded.
        """
        create_graph = kwargs.get("create_graph", args[1] if len(args) > 1 else False)
        root = outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 else outputs
        wanted = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        if (
            isinstance(root, self._torch.Tensor)
            and root.numel() == 1
            and grad_outputs is None
            and not create_graph
            and not self._nested()
            and any(getattr(one, "is_leaf", False) for one in wanted)
        ):
            self._loss(root, "grad")

    def _functional(self, value: Any) -> None:
        """Record the value of a function that torch.func differentiates, at the outermost level of differentiation."""
        level = self._torch._C._functorch
        while level.is_batchedtensor(value):
            value = level.get_unwrapped(value)
        if isinstance(value, self._torch.Tensor) and not level.is_functorch_wrapped_tensor(value):
            self._loss(value, "func")

    def _step(self, optimizer: Any) -> None:
        # A fused optimizer that steps under a GradScaler is told on the device whether to do nothing.
        skipped = getattr(optimizer, "found_inf", None)
        if self._graph is not None and self._capturing(None):
            self._later(self._recorder.step, optimizer, skipped)
        else:
            self._recorder.step(optimizer, skipped)

    def _nested(self) -> bool:
        """Say whether this thread is inside a backward pass: activation checkpointing at work, not another loss.

        The engine runs CUDA's part of a pass in threads of its own, and only torch knows what these are doing.
        """
        return self._thread.inside or self._graph_task() != -1

    def _remember_scale(self, tensor: Any, factor: float, scale: Any) -> None:
        if not isinstance(tensor, self._torch.Tensor):
            return
        key = id(tensor)
        self._scaled[key] = (weakref.ref(tensor, lambda _: self._scaled.pop(key, None) and None), factor, scale)

    # CUDA graphs: what is captured happens at each replay

    def _capturing(self, value: Any) -> bool:
        if value is not None and value.device.type != "cuda":
            return False
        return bool(self._torch.cuda.is_current_stream_capturing())

    def _later(self, record: Callable[..., None], *arguments: Any) -> None:
        assert self._graph is not None
        self._graph.append((record, arguments))

    def _replayed(self, graph: Any) -> None:
        for record, arguments in self._graphs.get(graph, ()):
            record(*arguments)

    # Where the hooks are set

    def _wrap_backward(self, module: Any) -> None:
        original, tracing, thread, torch = module.backward, self._tracing, self._thread, self._torch
        noticed, tracing_code = self._noticed_losses, self._tracing_code

        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if tracing():
                if tracing_code():
                    noticed()
                return original(tensors, *args, **kwargs)
            try:
                if self._nested():
                    return original(tensors, *args, **kwargs)
                if isinstance(tensors, torch.Tensor):
                    self._guarded(self._loss, tensors)
                else:
                    tensors = tuple(tensors) if hasattr(tensors, "__next__") else tensors
                    self._guarded(self._losses, tensors if isinstance(tensors, (tuple, list)) else (tensors,))
                thread.inside = True
                try:
                    return original(tensors, *args, **kwargs)
                finally:
                    thread.inside = False
            except BaseException as error:
                hooks.without_own_frame(error)
                raise

        module.backward = backward
        self._keep_compiler_away(backward)

    def _wrap(
        self,
        owner: Any,
        name: str,
        *,
        compiled: Callable[[], bool] | None = None,
        before: Callable[..., None] | None = None,
        after: Callable[..., None] | None = None,
        generators: bool = False,
    ) -> None:
        """Call `before(*args, **kwargs)` before the function `name` of a module or class, `after(result, *args)` after.

        Both are left out while the compiler traces; `compiled` is then called once, at the time of tracing. With
        `generators` arguments that can be gone through only once, such as `model.parameters()`, become tuples first.
        """
        original, tracing, tracing_code = getattr(owner, name), self._tracing, self._tracing_code

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if tracing():
                if compiled is not None and tracing_code():
                    compiled()
                return original(*args, **kwargs)
            try:
                if generators:
                    args = tuple([tuple(one) if hasattr(one, "__next__") else one for one in args])
                    kwargs = {key: tuple(one) if hasattr(one, "__next__") else one for key, one in kwargs.items()}
                if before is not None:
                    self._guarded(before, *args, **kwargs)
                result = original(*args, **kwargs)
            except BaseException as error:
                hooks.without_own_frame(error)
                raise
            if after is not None:
                self._guarded(after, result, *args, **kwargs)
            return result

        setattr(owner, name, wrapper)
        self._keep_compiler_away(wrapper)

    def _guarded(self, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call one of the hooks, unwatched by the compiler."""
        if kwargs:
            function = functools.partial(function, **kwargs)
        hooks.uncompiled(self._recorder.guard, function, *args)

    def _step_hook(self) -> Callable[..., None]:
        tracing, traced_whole = self._tracing, self._traced_whole

        def recorded(optimizer: Any) -> None:
            self._guarded(self._step, optimizer)

        def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
            if tracing() and traced_whole():
                return
            recorded(optimizer)

        # Where the compiler may break the graph it does so here, and the step is recorded when it happens.
        recorded._torchdynamo_disable = True  # type: ignore[attr-defined]
        for function in (recorded, hook):
            self._keep_compiler_away(function)
        return hook

    def _noticing_compiler(self) -> Callable[[], bool]:
        """Return a function that the compiler calls while it traces (and takes for a constant): is this one graph?"""
        recorder = self._recorder

        def traced_whole() -> bool:
            try:
                translator = sys.modules["torch._dynamo.symbolic_convert"].InstructionTranslator.current_tx()
                whole = bool(translator.one_graph)
            except Exception:
                whole = True
            if whole:
                recorder.warn(
                    "torch.compile made one graph of an optimizer's step: its steps and weights are not recorded"
                )
            return whole

        traced_whole._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return traced_whole

    def _noticing_losses(self) -> Callable[[], bool]:
        recorder = self._recorder

        def noticed() -> bool:
            recorder.warn("torch.compile made a gradient computation part of a graph: its losses are not recorded")
            return True

        noticed._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return noticed

    def _keep_compiler_away(self, function: Any) -> None:
        hooks.keep_compiler_away(self._torch, function)

    def _attach_scaler(self, module: Any) -> None:
        scaler_class = module.GradScaler

        def scaled(result: Any, scaler: Any, outputs: Any) -> None:
            if scaler.is_enabled():
                _, factor, _ = self._scaled.get(id(outputs), _UNSCALED)
                self._remember_scale(result, factor, scaler._scale)

        def stepped(result: Any, scaler: Any, optimizer: Any, state: Any, *args: Any, **kwargs: Any) -> None:
            if self._recorder.steps == self._thread.steps_before:
                self._recorder.skip(optimizer)

        def about_to_step(*args: Any, **kwargs: Any) -> None:
            self._thread.steps_before = self._recorder.steps

        self._wrap(scaler_class, "scale", after=scaled)
        self._wrap(scaler_class, "_maybe_opt_step", before=about_to_step, after=stepped)

    def _attach_functorch(self, module: Any) -> None:
        def differentiated(result: Any, func: Any, argnums: Any, has_aux: bool, *args: Any, **kwargs: Any) -> None:
            self._functional(result[1][0] if has_aux else result[1])

        def pulled_back(result: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(result[0], self._torch.Tensor) and result[0].numel() == 1:
                self._functional(result[0])

        if hasattr(module, "grad_and_value_impl"):
            self._wrap(module, "grad_and_value_impl", compiled=self._noticed_losses, after=differentiated)
        if hasattr(module, "vjp"):
            self._wrap(module, "vjp", after=pulled_back)

    def _attach_graphs(self, module: Any) -> None:
        def begun(result: Any, graph: Any, *args: Any, **kwargs: Any) -> None:
            self._graph = []
            self._recorder.capturing = True

        def ended(result: Any, graph: Any) -> None:
            captured, self._graph = self._graph, None
            self._recorder.capturing = False
            if captured:
                self._graphs[graph] = captured

        self._wrap(module.CUDAGraph, "capture_begin", after=begun)
        self._wrap(module.CUDAGraph, "capture_end", after=ended)
        self._wrap(module.CUDAGraph, "replay", after=lambda result, graph: self._replayed(graph))

    def _attach_batches(self, module: Any) -> None:
        def given(batch: Any, iterator: Any) -> None:
            self._recorder.batch(batch, getattr(iterator, LOADER_NUMBER, 0))

        self._wrap(module._BaseDataLoaderIter, "__next__", after=given)

    def _attach_accelerate(self, module: Any) -> None:
        def about_to_divide(accelerator: Any, *args: Any, **kwargs: Any) -> None:
            self._thread.factor = 1.0 / accelerator.gradient_accumulation_steps

        def done(*args: Any, **kwargs: Any) -> None:
            self._thread.factor = 1.0

        self._wrap(module.Accelerator, "backward", before=about_to_divide, after=done)

    def _attach_lightning(self, module: Any) -> None:
        original = module.ClosureResult.from_training_step_output.__func__

        def from_training_step_output(cls: Any, training_step_output: Any, normalize: int = 1) -> Any:
            result = original(cls, training_step_output, normalize)
            self._remember_scale(result.closure_loss, 1.0 / normalize, None)
            return result

        module.ClosureResult.from_training_step_output = classmethod(from_training_step_output)


def attach(torch: Any, recorder: Recorder) -> None:
    """Set the hooks for a recorder into torch."""
    Capture(torch, recorder).attach()


def _compiler_test(torch: Any, name: str) -> Callable[[], bool]:
    """Return torch's own test `name` of what the compiler is doing, which the compiler itself answers as it traces."""
    for owner in (getattr(torch, "compiler", None), torch._utils):
        found: Callable[[], bool] | None = getattr(owner, name, None)
        if found is not None:
            return found
    return lambda: False

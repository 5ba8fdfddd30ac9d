"""What is known of modules, with the parts of torch that this rests on played by classes as small as can be."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from reprobox.runtime.modules import MOST_ROOTS, Modules
from tests.unit.counting import calls


class Tensor:
    def __init__(self, *shape: int, requires_grad: bool = True, meta: bool = False) -> None:
        self.shape = shape
        self.requires_grad = requires_grad
        self.is_meta = meta

    def is_inference(self) -> bool:
        return False


class Buffer(Tensor):
    def __init__(self, *shape: int) -> None:
        super().__init__(*shape, requires_grad=False)


def fake_torch() -> Any:
    """Return a torch with modules that register what is assigned to them, as torch's own do."""
    hooks: dict[str, list[Callable[..., None]]] = {"_parameters": [], "_modules": []}

    class Module:
        def __init__(self) -> None:
            vars(self).update(_parameters={}, _buffers={}, _modules={}, _non_persistent_buffers_set=set())

        def __setattr__(self, name: str, value: Any) -> None:
            part = "_modules" if isinstance(value, Module) else "_parameters"
            if isinstance(value, Buffer):
                self._buffers[name] = value
                return
            for hook in hooks[part]:
                hook(self, name, value)
            vars(self)[part][name] = value

        def __getattr__(self, name: str) -> Any:
            for part in ("_parameters", "_buffers", "_modules"):
                if name in vars(self)[part]:
                    return vars(self)[part][name]
            raise AttributeError(name)

        def __setstate__(self, state: dict[str, Any]) -> None:
            vars(self).update(state)

    Module.__module__ = "torch.nn.modules.module"
    file = SimpleNamespace(
        register_module_parameter_registration_hook=hooks["_parameters"].append,
        register_module_module_registration_hook=hooks["_modules"].append,
    )
    nn = SimpleNamespace(Module=Module, modules=SimpleNamespace(module=file))
    return SimpleNamespace(nn=nn, Tensor=Tensor)


class Lab:
    """A process with modules: classes of them, what is known of them, what was told of those that are gone."""

    def __init__(self) -> None:
        self.torch = torch = fake_torch()
        self.warnings: list[str] = []
        self.gone: dict[str, Tensor] = {}
        self.modules = Modules(torch, self.warnings.append)
        self.modules.on_gone = self._on_gone

        class Linear(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, width: int = 4) -> None:
                super().__init__()
                self.weight = Tensor(width, width)
                self.bias = Tensor(width)

        class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, width: int = 4) -> None:
                super().__init__()
                self.first = Linear(width)
                self.last = Linear(width)
                self.mean = Buffer(width)
                self.cache = Buffer(width)
                self._non_persistent_buffers_set.add("cache")

        class Holder(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, **modules: Any) -> None:
                super().__init__()
                for name, module in modules.items():
                    setattr(self, name, module)

        Linear.__module__ = "torch.nn.modules.linear"
        self.Linear, self.Net, self.Holder = Linear, Net, Holder

    def _on_gone(self, name: str, entries: list[tuple[str, Tensor]]) -> None:
        self.gone.update((f"{name}.{own}", each) for own, each in entries)

    def watch(self, module: Any) -> None:
        self.modules.watch(parameters(module))

    def states(self) -> dict[str, Tensor]:
        return {f"{name}.{own}": each for name, entries in self.modules.states() for own, each in entries}


@pytest.fixture
def lab() -> Iterator[Lab]:
    found = Lab()
    yield found
    assert found.warnings == []


def parameters(module: Any) -> list[Tensor]:
    own = list(module._parameters.values())
    return own + [each for child in module._modules.values() for each in parameters(child)]


NET = ["Net.mean", "Net.first.weight", "Net.first.bias", "Net.last.weight", "Net.last.bias"]


def test_parameters_are_named_by_the_class_of_the_root_and_their_place_in_it(lab: Lab) -> None:
    net, other = lab.Net(), lab.Net()
    found = lab.modules.new_parameters()
    wanted = [name for name in NET if name != "Net.mean"]
    assert [name for name, _ in found] == wanted + [name.replace("Net", "Net#2") for name in wanted]
    assert [each for _, each in found] == parameters(net) + parameters(other)
    assert lab.modules.name_of(other.last.bias) == "Net#2.last.bias"
    assert lab.modules.name_of(Tensor(4)) is None


def test_each_parameter_is_given_once_and_fresh_says_when_to_ask_again(lab: Lab) -> None:
    assert not lab.modules.fresh
    net = lab.Net()
    assert lab.modules.fresh
    assert len(lab.modules.new_parameters()) == 4
    assert not lab.modules.fresh
    assert lab.modules.new_parameters() == []
    net.extra = Tensor(1)
    assert lab.modules.fresh
    assert [name for name, _ in lab.modules.new_parameters()] == ["Net.extra"]


def test_parameters_that_are_not_trained_have_a_name_but_are_not_given(lab: Lab) -> None:
    net = lab.Net()
    net.first.weight.requires_grad = False
    net.first.bias.is_meta = True
    net.last.weight.is_inference = lambda: True
    assert [name for name, _ in lab.modules.new_parameters()] == ["Net.last.bias"]
    assert lab.modules.name_of(net.first.weight) == "Net.first.weight"
    net.first.weight.requires_grad = True  # unfrozen
    assert [name for name, _ in lab.modules.new_parameters()] == ["Net.first.weight"]


def test_a_name_is_known_without_having_been_given(lab: Lab) -> None:
    net = lab.Net()
    assert lab.modules.name_of(net.last.bias) == "Net.last.bias"
    assert len(lab.modules.new_parameters()) == 4


def test_tied_parameters_and_shared_modules_have_their_first_name_and_all_their_entries(lab: Lab) -> None:
    net = lab.Net()
    net.last.weight = net.first.weight
    net.again = net.first
    assert lab.modules.name_of(net.last.weight) == "Net.first.weight"
    lab.watch(net)
    found = lab.states()
    assert found["Net.last.weight"] is found["Net.first.weight"] is found["Net.again.weight"]


def test_a_parameter_keeps_its_name_when_its_model_becomes_part_of_another(lab: Lab) -> None:
    net = lab.Net()
    lab.modules.new_parameters()
    holder = lab.Holder(net=net, head=lab.Linear())
    assert [name for name, _ in lab.modules.new_parameters()] == ["Holder.head.weight", "Holder.head.bias"]
    assert lab.modules.name_of(holder.net.first.weight) == "Net.first.weight"


def test_numbers_do_not_depend_on_which_modules_are_gone(lab: Lab) -> None:
    for _ in range(3):
        lab.Net()
    net = lab.Net()
    assert lab.modules.name_of(net.last.bias) == "Net#4.last.bias"


def test_a_wrapper_leaves_names_as_they_are(lab: Lab) -> None:
    wrapper = type("DistributedDataParallel", (lab.Holder,), {})
    wrapped = wrapper(module=wrapper(module=lab.Net()))
    assert lab.modules.name_of(wrapped.module.module.last.bias) == "Net.last.bias"
    lab.watch(wrapped)
    assert list(lab.states()) == NET


def test_a_registration_costs_a_handful_of_calls_and_a_look_without_anything_new_next_to_nothing(lab: Lab) -> None:
    bare = Lab()
    bare.torch.nn.modules.module.register_module_parameter_registration_hook.__self__.clear()
    _, without = calls(bare.Linear)
    _, with_hooks = calls(lab.Linear)
    assert with_hooks - without <= 2 * 3
    net = lab.Net()
    lab.watch(net)
    assert calls(lab.modules.look_for_copies)[1] <= 4


def test_modules_that_live_briefly_leave_nothing_behind(lab: Lab) -> None:
    def references() -> int:
        gc.collect()
        return sum(isinstance(each, weakref.ref) for each in gc.get_objects())

    net = lab.Net()
    lab.watch(net)
    before = references()
    for _ in range(20_000):
        lab.Linear()
    assert references() - before < 10_000
    assert lab.modules.name_of(net.last.bias) == "Net.last.bias"


def test_the_state_of_a_living_root_is_as_it_is_now(lab: Lab) -> None:
    net = lab.Net()
    lab.watch(net)
    assert list(lab.states()) == NET
    net.mean = Buffer(4)
    net.extra = lab.Linear()
    net.last = lab.Linear(7)
    found = lab.states()
    assert found["Net.mean"] is net.mean
    assert found["Net.last.weight"] is net.last.weight
    assert found["Net.extra.bias"] is net.extra.bias
    assert lab.gone == {}  # what was taken out belongs to no state


def test_only_roots_that_hold_one_of_the_parameters_are_watched(lab: Lab) -> None:
    net, other = lab.Net(), lab.Net(5)
    lab.modules.watch([net.last.bias, Tensor(1)])
    assert list(lab.states()) == NET
    lab.watch(other)
    assert len(lab.states()) == 2 * len(NET)


def test_a_root_that_goes_says_what_it_held(lab: Lab) -> None:
    def main() -> dict[str, Tensor]:
        net = lab.Net()
        lab.watch(net)
        net.mean = mean = Buffer(4)
        return {"Net.mean": mean, "Net.last.weight": net.last.weight}

    kept = main()
    assert list(lab.gone) == NET
    assert {name: lab.gone[name] for name in kept} == kept
    assert lab.states() == {}


def test_a_root_in_a_cycle_with_its_tensors_goes_and_takes_its_memory_with_it(lab: Lab) -> None:
    def main() -> list[weakref.ref[Tensor]]:
        net = lab.Net()
        vars(net)["itself"] = [net]
        net.first.weight.hook = lambda: net  # as a hook of a gradient may
        lab.watch(net)
        lab.modules.new_parameters()
        return [weakref.ref(each) for each in parameters(net)]

    held = main()
    gc.collect()
    assert sorted(lab.gone) == sorted(NET)
    lab.gone.clear()
    gc.collect()
    assert [each() for each in held] == [None] * 4


def test_no_weak_reference_to_a_tensor_is_held(lab: Lab) -> None:
    net = lab.Net()
    lab.modules.new_parameters()
    lab.watch(net)
    lab.modules.look_for_copies()
    assert not any(weakref.getweakrefs(each) for each in parameters(net))


def test_what_outlives_its_root_is_said_as_it_is_at_its_own_end(lab: Lab) -> None:
    net = lab.Net()
    holder = lab.Holder(net=net, head=lab.Linear())
    lab.watch(holder)
    del holder
    assert list(lab.gone) == ["Holder.head.weight", "Holder.head.bias"]
    wanted = [name.replace("Net.", "Holder.net.") for name in NET]
    assert list(lab.states()) == wanted
    net.mean = mean = Buffer(4)
    del net
    assert list(lab.gone)[2:] == wanted
    assert lab.gone["Holder.net.mean"] is mean


def test_what_two_roots_share_is_said_of_the_later_one(lab: Lab) -> None:
    net = lab.Net()
    first = lab.Holder(net=net, head=lab.Linear())
    lab.watch(first)
    second = lab.Holder(net=net, neck=lab.Linear())
    lab.watch(second)
    assert [name for name in lab.states() if "net" not in name] == [
        *("Holder.head.weight", "Holder.head.bias"),
        *("Holder#2.neck.weight", "Holder#2.neck.bias"),
    ]
    assert [name for name in lab.states() if "net" in name] == [n.replace("Net", "Holder#2.net") for n in NET]
    del second
    assert list(lab.gone) == ["Holder#2.neck.weight", "Holder#2.neck.bias"]


def test_copies_are_watched_with_what_is_around_them(lab: Lab) -> None:
    net = lab.Net()
    before = copy.deepcopy(net)
    lab.watch(net)
    after = lab.Holder(module=copy.deepcopy(net), decay=lab.Linear(2))
    stranger = lab.Net(5)
    lab.modules.look_for_copies()
    names = {name.partition(".")[0] for name in lab.states()}
    assert names == {"Net", "Net#2", "Holder"}
    assert lab.states()["Holder.decay.bias"] is after.decay.bias
    assert lab.states()["Net#2.mean"] is before.mean
    assert before.mean is not net.mean
    del stranger


def test_a_copy_of_what_is_inside_a_root_is_watched_but_not_one_of_a_single_layer(lab: Lab) -> None:
    holder = lab.Holder(net=lab.Net())
    lab.watch(holder)
    model, layer = copy.deepcopy(holder.net), copy.deepcopy(holder.net.first)
    lab.modules.look_for_copies()
    assert lab.states()["Net#2.first.weight"] is model.first.weight
    assert not any(each is layer.weight for each in lab.states().values())


def test_copies_of_a_root_that_is_watched_later_are_found_too(lab: Lab) -> None:
    one, other = lab.Net(4), lab.Net(5)
    average = copy.deepcopy(other)
    lab.watch(one)
    assert not any(each is average.mean for each in lab.states().values())
    lab.watch(other)
    assert any(each is average.mean for each in lab.states().values())


def test_a_copy_that_is_made_again_and_again_takes_the_name_of_the_one_that_is_gone(lab: Lab) -> None:
    net = lab.Net()
    lab.watch(net)
    best = None
    for _ in range(3):
        best = copy.deepcopy(net)
        lab.modules.look_for_copies()
    assert best is not None
    assert lab.states()["Net#2.mean"] is best.mean
    assert {name.partition(".")[0] for name in {**lab.gone, **lab.states()}} == {"Net", "Net#2"}


def test_more_roots_than_are_watched_are_counted() -> None:
    lab = Lab()
    ensemble = [lab.Net() for _ in range(MOST_ROOTS + 3)]
    lab.modules.watch([each for net in ensemble for each in parameters(net)])
    assert len(lab.modules.states()) == MOST_ROOTS
    assert lab.warnings == [
        "more than 64 modules were trained or copied at one time: the final state of 3 was not recorded"
    ]
    ensemble.clear()
    net = lab.Net()
    lab.watch(net)
    assert len(lab.modules.states()) == 1


def test_classes_with_an_end_of_their_own_have_it_and_are_seen(lab: Lab) -> None:
    ended = []

    class Closing:
        def __del__(self) -> None:
            ended.append("base")

    class Inherits(lab.Net, Closing):  # type: ignore[misc, name-defined]
        pass

    class Own(lab.Net):  # type: ignore[misc, name-defined]
        def __del__(self) -> None:
            ended.append("own")

    for kind in (Inherits, Own, Own):
        net = kind()
        lab.watch(net)
        del net
    assert ended == ["base", "own", "own"]
    wanted = [name.replace("Net", kind) for kind in ("Inherits", "Own", "Own#2") for name in NET]
    assert list(lab.gone) == wanted


def test_what_is_hooked_can_be_pickled_by_value(lab: Lab) -> None:
    gone = pickle.loads(pickle.dumps(lab.modules._gone))
    assert isinstance(gone.__self__, Modules)


@pytest.mark.parametrize("method", ["new_parameters", "states"])
def test_a_failure_inside_reaches_no_program(method: str) -> None:
    lab = Lab()
    net = lab.Net()
    lab.watch(net)
    vars(net)["_modules"] = 5
    assert getattr(lab.modules, method)() == []
    assert lab.modules.name_of(Tensor(1)) is None
    lab.modules.watch([Tensor(1)])
    assert {text.partition(":")[0] for text in lab.warnings} == {"the state of modules is not fully known"}


def test_a_failure_at_a_modules_end_reaches_no_program() -> None:
    lab = Lab()

    def fails(name: str, entries: object) -> None:
        raise OSError("no space left")

    lab.modules.on_gone = fails
    net = lab.Net()
    lab.watch(net)
    del net
    assert set(lab.warnings) == {"the state of modules is not fully known: OSError: no space left"}


def test_a_torch_without_these_hooks_knows_what_is_copied() -> None:
    torch = fake_torch()
    torch.nn.modules.module = SimpleNamespace()
    modules = Modules(torch)
    net = torch.nn.Module()
    net.weight = Tensor(2)
    copied = copy.deepcopy(net)
    assert modules.name_of(copied.weight) == "Module.weight"
    assert modules.name_of(net.weight) is None


def test_a_torch_that_cannot_be_hooked_is_said() -> None:
    warnings: list[str] = []
    modules = Modules(SimpleNamespace(), warnings.append)
    assert [text.partition(":")[0] for text in warnings] == ["the state of modules is not fully known"]
    assert (modules.new_parameters(), modules.states()) == ([], [])

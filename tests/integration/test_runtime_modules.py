"""What the runtime knows of torch's modules, of its wrappers and odd ones, and of those of the usual libraries."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import Training

pytestmark = pytest.mark.network

HEAD = '''
import copy, gc, io, os, sys, traceback, weakref
import torch
from torch import nn
from reprobox.runtime.modules import Modules

warnings = []
gone = {}

def told(root, entries):
    gone.update((f"{root}.{name}", tensor.detach().clone()) for name, tensor in entries)

modules = Modules(torch, warnings.append)
modules.on_gone = told

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))

ENTRIES = list(Net().state_dict())

def state():
    return {f"{root}.{name}": tensor for root, entries in modules.states() for name, tensor in entries}

def train(model, steps=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        if step == 0:
            modules.watch(model.parameters())
    return optimizer

def number_of(model):
    """The root's name: Net, or Net#7 where the checks before made six."""
    return modules.name_of(next(model.parameters())).partition(".")[0]

def agrees(found, model, root=None):
    """Whether what was found of a root is what its state_dict() says."""
    wanted = {f"{root or number_of(model)}.{name}": tensor for name, tensor in model.state_dict().items()}
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)

def only(found, root):
    return {name: tensor for name, tensor in found.items() if name.startswith(root + ".")}

def parameters_of(module):
    return [name for name, _ in module.named_parameters()]
'''

CHECKS = """
def check_a_trained_model_has_the_state_of_its_state_dict():
    net = Net()
    train(net)
    assert agrees(state(), net)
    assert float(state()[number_of(net) + ".norm.num_batches_tracked"]) == 2
    net.load_state_dict({name: torch.ones_like(each) for name, each in net.state_dict().items()}, assign=True)
    assert agrees(state(), net)

def check_a_model_that_goes_with_its_function_is_told():
    def main():
        net = Net()
        optimizer = train(net)
        return number_of(net), {name: each.clone() for name, each in net.state_dict().items()}
    root, wanted = main()
    assert state() == {}
    assert {name.partition(".")[2] for name in gone} == set(wanted) and set(only(gone, root)) == set(gone)
    assert all(torch.equal(gone[f"{root}.{name}"], each) for name, each in wanted.items())

def check_parameters_are_given_once_by_name():
    net = Net()
    given = [each for each in modules.new_parameters() if each[0].startswith(number_of(net) + ".")]
    assert [name.partition(".")[2] for name, _ in given] == parameters_of(net)
    assert all(mine is its for (_, mine), its in zip(given, net.parameters()))
    assert modules.new_parameters() == []

def check_a_deep_copy_that_averages_is_found_with_its_buffers():
    net = Net()
    average = copy.deepcopy(net)
    train(net)
    with torch.no_grad():
        for mine, its in zip(average.parameters(), net.parameters()):
            mine.lerp_(its, 0.1)
    assert agrees(only(state(), number_of(net)), net)
    assert agrees(only(state(), number_of(average)), average)
    assert number_of(average) != number_of(net)

def check_a_double_or_half_copy_is_found_too():
    net = Net()
    train(net)
    average = copy.deepcopy(net).double().requires_grad_(False)
    modules.look_for_copies()
    assert agrees(only(state(), number_of(average)), average)

def check_the_averaged_model_of_torch():
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    train(net)
    average.update_parameters(net)
    assert agrees(only(state(), "AveragedModel"), average)
    assert int(state()["AveragedModel.n_averaged"]) == 1
    assert agrees(only(state(), number_of(net)), net)

def check_an_average_in_a_wrapper_as_timm_makes_it():
    class ModelEma(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module = copy.deepcopy(model).eval()
            for parameter in self.module.parameters():
                parameter.requires_grad = False
    net = Net()
    train(net)
    average = ModelEma(net)
    modules.look_for_copies()
    assert agrees(only(state(), "ModelEma"), average)
    del average
    assert list(only(gone, "ModelEma")) == ["ModelEma.module." + name for name in ENTRIES]

def check_memory_comes_back_also_of_cycles_through_hooks_of_parameters():
    def fold():
        net = Net()
        net.itself = [net]
        net.head.weight.register_hook(lambda gradient: gradient * len(net.itself))
        train(net)
        return number_of(net), [weakref.ref(each) for each in net.state_dict(keep_vars=True).values()]
    for _ in range(3):
        root, held = fold()
        gc.collect()
        assert not any(each() is not None for each in held)
        assert only(gone, root).keys() == {f"{root}.{name}" for name in ENTRIES}

def check_tied_weights_stand_under_both_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight
        def forward(self, _):
            return self.head(self.embed.weight)
    net = Tied()
    assert modules.name_of(net.head.weight) == "Tied.embed.weight"
    assert [name for name, _ in modules.new_parameters() if name.startswith("Tied")] == ["Tied.embed.weight"]
    train(net)
    assert agrees(state(), net)

def check_a_compiled_model_has_the_names_of_the_model():
    net = Net()
    compiled = torch.compile(net, backend="eager")
    train(compiled)
    assert modules.name_of(net.head.bias) == number_of(net) + ".head.bias"
    assert number_of(net).startswith("Net") and agrees(state(), net)
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.compile(Net(), backend="eager")
        def forward(self, images):
            return self.inner(images)
    outer = Outer()
    train(outer)
    assert agrees(only(state(), "Outer"), outer)

def check_what_is_compiled_is_not_disturbed():
    class Assigns(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.register_buffer("mean", torch.zeros(3))
        def forward(self, images):
            self.mean = self.mean * 0.9 + images.mean((0, 2, 3)).detach()
            return self.linear(images.mean((2, 3)) + self.mean)
    net = Assigns()
    frames = []
    def backend(graph, inputs):
        frames.append(graph)
        return graph
    train(torch.compile(net, backend=backend, fullgraph=True), steps=4)
    assert len(frames) == 1
    assert agrees(state(), net)

def check_two_roots_of_one_class_are_told_apart():
    one, other = Net(), Net()
    first, second = number_of(one), number_of(other)
    assert int(second.partition("#")[2]) == int(first.partition("#")[2]) + 1
    optimizers = train(one), train(other)
    assert agrees(only(state(), first), one) and agrees(only(state(), second), other)

def check_a_model_that_is_loaded_whole_is_known():
    file = io.BytesIO()
    torch.save(Net(), file)
    file.seek(0)
    net = torch.load(file, weights_only=False)
    train(net)
    assert agrees(state(), net)

def check_a_scripted_and_a_traced_model():
    for made in (torch.jit.script(Net()), torch.jit.trace(Net(), torch.randn(1, 3, 8, 8))):
        train(made)
        root = number_of(made)
        assert agrees(only(state(), root), made), (root, list(state()))
        copied = copy.deepcopy(made)
        modules.look_for_copies()
        del made, copied
    gc.collect()

def check_lazy_modules_are_given_once_they_are_made():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.LazyConv2d(4, 3)
            self.norm = nn.LazyBatchNorm2d()
        def forward(self, images):
            return self.norm(self.conv(images))
    net = Lazy()
    given = modules.new_parameters()
    assert not any(name.startswith("Lazy.") for name, _ in given) and modules.fresh
    modules.watch(net.parameters())
    net(torch.randn(4, 3, 8, 8))
    assert [name for name, _ in modules.new_parameters()] == ["Lazy." + name for name in parameters_of(net)]
    assert not modules.fresh
    train(net)
    assert agrees(state(), net)

def check_modules_on_no_device():
    with torch.device("meta"):
        net = Net()
    assert not any(name.startswith(number_of(net) + ".") for name, _ in modules.new_parameters())
    modules.watch(net.parameters())
    assert state() == {}
    net.to_empty(device="cpu")
    assert len(modules.new_parameters()) == len(parameters_of(net))

def check_parametrizations_and_both_weight_norms():
    import warnings as python_warnings
    from torch.nn.utils import parametrizations, weight_norm
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.new = parametrizations.weight_norm(nn.Linear(3, 4))
            self.spectral = parametrizations.spectral_norm(nn.Linear(4, 4))
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore")
                self.old = weight_norm(nn.Linear(4, 2))
        def forward(self, images):
            return self.old(self.spectral(self.new(images.mean((2, 3)))))
    net = Normed()
    assert modules.name_of(net.new.parametrizations.weight.original0) == "Normed.new.parametrizations.weight.original0"
    train(net)
    assert agrees(state(), net)

def check_lists_and_dicts_of_parameters():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.list = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])
            self.dict = nn.ParameterDict({"a b": nn.Parameter(torch.ones(3))})
            self.table = nn.ModuleDict({"empty": nn.Identity()})
        def forward(self, images):
            return images.mean((2, 3)) * self.list[0] * self.list[1] * self.dict["a b"]
    net = Listed()
    train(net)
    assert agrees(state(), net)
    assert modules.name_of(net.dict["a b"]) == "Listed.dict.a b"

def check_quantized_modules():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    modules.watch(net.parameters())
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    copied = copy.deepcopy(quantized)
    modules.look_for_copies()
    assert agrees(only(state(), number_of(net)), net)

def check_modules_that_raise_or_look_odd():
    class Odd(Net):
        def __eq__(self, other):
            raise ValueError("compared")
        def __hash__(self):
            return 7
        def __getattr__(self, name):
            if name == "missing":
                raise RuntimeError("asked for")
            return super().__getattr__(name)
        @property
        def shape(self):
            raise RuntimeError("a property")
        def __len__(self):
            raise RuntimeError("a length")
    net = Odd()
    train(net)
    assert agrees(state(), net)
    try:
        class NotInitialised(nn.Module):
            def __init__(self):
                self.weight = nn.Parameter(torch.ones(1))
        NotInitialised()
    except AttributeError as error:
        assert "before Module.__init__" in str(error)

def check_modules_without_parameters_and_plain_tensors():
    plain = torch.zeros(3, requires_grad=True)
    modules.watch([plain])
    nn.Sequential(nn.ReLU(), nn.Flatten())
    assert modules.name_of(plain) is None
    assert state() == {}

def check_data_parallel_and_distributed_wrappers():
    import torch.distributed as dist
    net = Net()
    train(nn.DataParallel(net))
    assert agrees(state(), net)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(Net())
    train(wrapped)
    root = number_of(wrapped)
    assert root.startswith("Net") and agrees(only(state(), root), wrapped.module, root)
    del wrapped
    gc.collect()
    dist.destroy_process_group()

def check_a_forked_child_begins_anew():
    net = Net()
    train(net)
    modules.new_parameters()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ok = modules.fresh and not modules.states() and len(modules.new_parameters()) >= len(parameters_of(net))
            os.write(writer, b"1" if ok else b"0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    assert agrees(state(), net)

def given_to_a_child(rank, net):
    train(net)
    assert number_of(net) == "Net#2" and agrees(state(), net)

def check_a_model_that_a_spawned_child_is_given():
    import torch.multiprocessing as mp
    mp.spawn(given_to_a_child, args=(Net(),))

def check_many_modules_that_live_briefly():
    net = Net()
    train(net)
    def references():
        gc.collect()
        return sum(isinstance(each, weakref.ref) for each in gc.get_objects())
    before = references()
    for _ in range(10000):
        nn.Linear(1, 1)
    assert references() - before < 9000
    assert agrees(state(), net)

def check_transformers_with_tied_weights():
    from transformers import GPT2Config, GPT2LMHeadModel
    net = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(input_ids=torch.ones(1, 4, dtype=torch.long), labels=torch.ones(1, 4, dtype=torch.long)).loss.backward()
    assert modules.name_of(net.lm_head.weight) == "GPT2LMHeadModel.transformer.wte.weight"
    modules.watch(net.parameters())
    assert agrees(state(), net)

def check_accelerate():
    from accelerate import Accelerator
    net = Net()
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    accelerator.backward(prepared(torch.randn(4, 3, 8, 8)).sum())
    optimizer.step()
    modules.watch(net.parameters())
    assert agrees(state(), net)

def check_lightning():
    import lightning, torchmetrics
    from torch.utils.data import DataLoader
    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()
            self.metric = torchmetrics.MeanMetric()
        def training_step(self, batch, index):
            loss = self.net(batch).square().mean()
            self.metric(loss.detach())
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)
    class Average(lightning.Callback):
        def on_train_start(self, trainer, module):
            self.net = copy.deepcopy(module.net)
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 1:
                modules.watch(module.parameters())
    def fit():
        lit, average = Lit(), Average()
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[average])
        trainer.fit(lit, DataLoader(torch.randn(8, 3, 8, 8), batch_size=4))
        assert agrees(only(state(), "Lit"), lit)
        assert agrees(only(state(), number_of(average.net)), average.net)
        whole = copy.deepcopy(lit)
        modules.look_for_copies()
        assert agrees(only(state(), number_of(whole)), whole)
    fit()
    gc.collect()
    assert only(gone, "Lit").keys() == {"Lit.net." + name for name in ENTRIES}
    assert state() == {}
"""

RUN = """
if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                print("passed", name)
            except BaseException:
                print("failed", name)
                traceback.print_exc(file=sys.stdout)
            torch._dynamo.reset()
            gc.collect()
            gone.clear()
    print(warnings)
"""


@pytest.fixture(scope="module")
def outcome(training_python: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the checks print: one process runs all of them, because loading torch takes longer than most."""
    training = Training(training_python, tmp_path_factory.mktemp("modules"))
    return training.run(HEAD + CHECKS + RUN, head=False).stdout


@pytest.mark.parametrize("check", re.findall(r"^def (check_\w+)", CHECKS, flags=re.MULTILINE))
def test_modules(check: str, outcome: str) -> None:
    assert f"passed {check}\n" in outcome, outcome


def test_no_check_met_with_a_failure_inside(outcome: str) -> None:
    assert outcome.splitlines()[-1] == "[]"

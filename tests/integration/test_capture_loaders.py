"""Data loaders draw as in plain Python: from the program's seeds, or from the run's where the program sets none.

The first seven tests are the scenarios in which seeding of workers was first asked for.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reprobox.record.facts import read_facts
from reprobox.record.findings import read_findings
from reprobox.record.workers import warnings_of_workers
from tests.integration.conftest import Training

pytestmark = pytest.mark.network
needs_gpu = pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="there is no NVIDIA GPU")

# A data set whose items tell what the worker that made them drew from each source of random numbers.
DRAWS = """
import random
import numpy
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
class Draws(Dataset):
    def __init__(self, size=8):
        self.size = size
    def __len__(self):
        return self.size
    def __getitem__(self, index):
        worker = get_worker_info()
        return [index, worker.id if worker else -1, torch.initial_seed(), torch.rand(()).item(), random.random(),
            numpy.random.rand()]
class Endless(IterableDataset):
    def __iter__(self):
        return iter([Draws()[index] for index in range(4)])
def rows(loader):
    return [row for batch in loader for row in batch]
def plain(batch):
    return batch
def show(label, loader):
    for row in rows(loader):
        print("row", label, *row)
"""

SEEN = """
def seen(value):
    print("seen", struct.pack(">f", float(value)).hex())
"""

EPOCHS = """
from torch.utils.data import DataLoader, Dataset
class Noisy(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return features[index] + 0.1 * torch.randn(4), targets[index]
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)).to(DEVICE)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
if __name__ == "__main__":
    for epoch in range(3):
        for inputs, wanted in DataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=WORKERS):
            optimizer.zero_grad()
            loss = ((model(inputs.to(DEVICE)) - wanted.to(DEVICE)) ** 2).mean()
            loss.backward()
            optimizer.step()
"""


def drawn(training: Training, code: str, **options: object) -> dict[str, list[list[str]]]:
    """Run a program that shows loaders, and return the rows of each: index, worker, seed, and three draws."""
    done = training.run(DRAWS + 'if __name__ == "__main__":\n' + code, **options)  # type: ignore[arg-type]
    found: dict[str, list[list[str]]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("row "):
            _, label, *row = line.split()
            found.setdefault(label, []).append(row)
    return found


def workers(rows: list[list[str]]) -> dict[int, int]:
    return {int(row[1]): int(row[2]) for row in rows}


def epochs(training: Training, count: int, device: str = "cpu") -> tuple[list[str], str | None]:
    training.run(EPOCHS.replace("DEVICE", repr(device)).replace("WORKERS", str(count)))
    return training.bits, training.streams[0].weights


def test_scenario_1_two_deterministic_runs_of_three_epochs_are_identical_to_the_bit(training: Training) -> None:
    first = epochs(training, 2)
    assert len(first[0]) == 12
    assert epochs(training, 2) == first


@pytest.mark.gpu
@needs_gpu
def test_scenario_2_in_fast_mode_the_gpu_gives_other_bits_from_run_to_run(training: Training) -> None:
    code = """
device = "cuda"
index = torch.randint(0, 8, (1 << 20,), device=device)
weight = torch.nn.Parameter(torch.randn(8, 4, device=device))
optimizer = torch.optim.SGD([weight], lr=1e-4)
values = torch.randn(1 << 20, 4, device=device)
for _ in range(20):
    optimizer.zero_grad()
    loss = (torch.zeros(8, 4, device=device).index_add(0, index, values * weight[index]) ** 2).mean()
    loss.backward()
    optimizer.step()
"""
    runs = []
    for _ in range(3):
        training.run(code, deterministic=False)
        runs.append((training.bits, training.streams[0].weights))
    assert any(one != runs[0] for one in runs[1:])
    assert training.facts[0]["determinism"]["cudnn_benchmark"] is True


def test_scenario_3_four_workers_are_seeded_with_42_43_44_45(training: Training) -> None:
    code = """
    from reprobox.runtime import create_reproducible_dataloader, set_random_seed
    set_random_seed(42)
    loader = create_reproducible_dataloader(Draws(), num_workers=4, collate_fn=plain)
    show('a', loader)
    show('b', loader)
"""
    found = drawn(training, code)
    assert workers(found["a"]) == {0: 42, 1: 43, 2: 44, 3: 45}
    for column in (3, 4, 5):
        assert len({row[column] for rows in found.values() for row in rows}) == 16


def test_scenario_4_without_workers_two_runs_are_identical(training: Training) -> None:
    assert epochs(training, 0) == epochs(training, 0)


def test_scenario_5_the_order_of_two_epochs_repeats_from_run_to_run_and_differs_between_them(
    training: Training,
) -> None:
    code = """
    loader = DataLoader(Draws(32), shuffle=True, collate_fn=plain)
    show('first', loader)
    show('second', loader)
"""
    first = drawn(training, code)
    assert drawn(training, code) == first
    orders = [[row[0] for row in first[label]] for label in ("first", "second")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("deterministic", [True, False])
def test_scenario_7_the_mode_that_was_recorded_is_in_force_again(training: Training, deterministic: bool) -> None:
    for _ in range(2):
        training.run("", deterministic=deterministic)
        flags = training.facts[0]["determinism"]
        assert flags["use_deterministic_algorithms"] is deterministic
        assert flags["cudnn_deterministic"] is deterministic
        assert flags["cudnn_benchmark"] is not deterministic
        assert flags["fill_uninitialized_memory"] is (not deterministic)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_scenario_7_a_configuration_that_a_session_saved_is_in_force_in_the_next(
    training: Training, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"config.{ending}"
    head = "from reprobox.runtime import TrainingConfig\n"
    training.run(f"{head}TrainingConfig(seed=7, deterministic=True).save({str(file)!r})", deterministic=False)
    assert training.facts[0]["determinism"]["use_deterministic_algorithms"] is False
    code = f"""
TrainingConfig.load({str(file)!r})
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    loss = loss_of(torch.nn.Sequential(torch.nn.Dropout(0.5), model))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
    sessions = []
    for _ in range(2):
        training.run(head + code, deterministic=False)
        assert training.facts[0]["determinism"]["use_deterministic_algorithms"] is True
        assert training.facts[0]["determinism"]["cudnn_benchmark"] is False
        sessions.append((training.bits, training.streams[0].weights))
    assert len(sessions[0][0]) == 3
    assert sessions[0] == sessions[1]


def test_a_plain_loaders_workers_have_torchs_base_seed_plus_their_number_which_is_recorded(training: Training) -> None:
    code = """
    loader = DataLoader(Draws(), num_workers=3, collate_fn=plain)
    for epoch in range(5):
        show(epoch, loader)
"""
    found = drawn(training, code, head=False)
    (entry,) = training.facts[0]["data_loaders"]
    line = 1 + DRAWS.count("\n") + 2
    assert (entry["where"], entry["workers"], entry["generator"]) == (f"train.py:{line}", 3, "default")
    assert entry["loaders"] == 1
    bases = [workers(found[str(epoch)])[0] for epoch in range(5)]
    assert entry["base_seeds"] == [str(base) for base in bases[:3]]
    for epoch, base in enumerate(bases):
        assert workers(found[str(epoch)]) == {0: base, 1: base + 1, 2: base + 2}


@pytest.mark.parametrize("count", [0, 2])
def test_augmentation_does_not_repeat_from_epoch_to_epoch_nor_between_loaders(training: Training, count: int) -> None:
    code = f"""
    first, second = (DataLoader(Draws(4), num_workers={count}, collate_fn=plain) for _ in range(2))
    show('a0', first)
    show('a1', first)
    show('b0', second)
"""
    found = drawn(training, code, head=False)
    draws = [row[column] for rows in found.values() for row in rows for column in (3, 4, 5)]
    assert len(set(draws)) == len(draws)
    assert drawn(training, code, head=False) == found
    others = drawn(training, code, head=False, seed=43)
    assert not {*draws} & {row[column] for rows in others.values() for row in rows for column in (3, 4, 5)}


@pytest.mark.parametrize("count", [0, 2])
def test_a_program_that_seeds_itself_draws_the_same_as_without_reprobox(training: Training, count: int) -> None:
    code = f"""
    from torch.utils.data import RandomSampler
    for seed in (7, 8, 7):
        random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
        loader = DataLoader(Draws(16), shuffle=True, batch_size=4, num_workers={count}, collate_fn=plain)
        show(('shuffled', seed), loader)
        show(('shuffled again', seed), loader)
        sampler = RandomSampler(Draws(16), replacement=True, num_samples=8)
        show(('sampled', seed), DataLoader(Draws(16), sampler=sampler, num_workers={count}, collate_fn=plain))
        print("row next", torch.rand(()).item(), random.random(), numpy.random.rand())
"""
    # Ranks too: a program that seeds itself says what they share.
    program = DRAWS + 'if __name__ == "__main__":\n' + code
    for env in ({}, {"RANK": "1"}):
        expected = training.bare(program, env=env).stdout
        for seed in (42, 43):
            assert training.run(program, head=False, seed=seed, env=env).stdout == expected
    lines = expected.splitlines()
    assert len(lines) == 3 * (16 + 16 + 8 + 1)
    assert lines[:41] == lines[82:] != lines[41:82]


@pytest.mark.parametrize(
    "seeds",
    [
        # Making an optimizer loads torch's compiler, which wraps torch.manual_seed once more.
        "torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), torch.manual_seed(7)",
        "torch.default_generator.manual_seed(7)",
        "torch.default_generator.set_state(torch.Generator().manual_seed(7).get_state())",
    ],
)
def test_however_a_program_seeds_torch_its_workers_on_every_rank_are_as_without_reprobox(
    training: Training, seeds: str
) -> None:
    code = f"""
    {seeds}, random.seed(7), numpy.random.seed(7)
    show('default', DataLoader(Draws(4), shuffle=True, num_workers=1, collate_fn=plain))
"""
    program = DRAWS + 'if __name__ == "__main__":\n' + code
    found = training.run(program, head=False, env={"RANK": "1"})
    assert found.stdout == training.bare(program, env={"RANK": "1"}).stdout
    if "manual_seed(7)" in seeds and "default" not in seeds:
        assert "torch.random.manual_seed(7)" in [row["what"] for row in read_findings(training.record, [])["own"]]


def test_a_loaders_own_generator_decides_about_its_workers_on_every_rank(training: Training) -> None:
    code = """
    loader = DataLoader(Draws(4), num_workers=1, collate_fn=plain, generator=torch.Generator().manual_seed(7))
    print("seeds", [row[2] for row in rows(loader)])
"""
    program = DRAWS + 'if __name__ == "__main__":\n' + code
    found = training.run(program, head=False, env={"RANK": "1"})
    assert found.stdout == training.bare(program, env={"RANK": "1"}).stdout


def test_persistent_workers_go_on_from_epoch_to_epoch_and_repeat_from_run_to_run(training: Training) -> None:
    code = """
    loader = DataLoader(Draws(4), num_workers=2, persistent_workers=True, collate_fn=plain)
    show('0', loader)
    next(iter(loader))   # an epoch that is left early
    show('2', loader)
"""
    found = drawn(training, code, head=False)
    assert workers(found["0"]) == workers(found["2"])
    assert {row[3] for row in found["0"]}.isdisjoint(row[3] for row in found["2"])
    assert drawn(training, code, head=False) == found
    assert training.warnings == []


RESUME = """
from torch.utils.data import DataLoader, Dataset
class Noisy(Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, index):
        noise = torch.rand(4) + random.random() + numpy.random.rand() + numpy.random.default_rng().random(4)
        return torch.linspace(-1, 1, 4) * index + 0.1 * noise.float()
def build():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    return model, torch.optim.Adam(model.parameters(), lr=0.01), DataLoader(Noisy(), 4, True, num_workers=WORKERS)
def epoch(model, optimizer, loader):
    for inputs in loader:
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen(loss)
def save(model, optimizer):
    states = {"torch": torch.get_rng_state(), "random": random.getstate(), "numpy": numpy.random.get_state()}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **states}, CHECKPOINT)
def resume():
    saved = torch.load(CHECKPOINT, weights_only=False)
    model, optimizer, loader = build()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["torch"]), random.setstate(saved["random"]), numpy.random.set_state(saved["numpy"])
    epoch(model, optimizer, loader)
"""


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("count", [0, 2])
def test_a_resumed_training_equals_the_uninterrupted_one(
    training: Training, tmp_path: Path, count: int, own: bool
) -> None:
    seeds = "torch.manual_seed(3), random.seed(3), numpy.random.seed(3)\n" if own else ""
    # With workers, what a dataset draws depends on their seeds alone, generators made without a seed included; in the
    # main process such a generator is another one each time that it is made.
    noisy = RESUME if count else RESUME.replace(" + numpy.random.default_rng().random(4)", "")
    head = (
        "import random, struct\nimport numpy, torch\n"
        + SEEN
        + noisy.replace("WORKERS", str(count)).replace("CHECKPOINT", repr(str(tmp_path / "checkpoint")))
    )
    main = f"{head}{seeds}model, optimizer, loader = build()\nepoch(model, optimizer, loader)\n"
    # Epochs with a pause to save, one resumed in the same process, one in another run.
    training.run(main + "save(model, optimizer)\nepoch(model, optimizer, loader)\nresume()\n", head=False)
    first, straight, resumed = training.seen[:4], training.seen[4:8], training.seen[8:]
    assert resumed == straight != first
    training.run(f"{head}{seeds}resume()\n", head=False)
    assert training.seen == straight
    training.run(main + "epoch(model, optimizer, loader)\n", head=False)
    assert training.seen == first + straight


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_started_afresh_get_the_same_seeds_as_forked_ones(training: Training, method: str) -> None:
    code = """
    for label in ("0", "1"):
        show(label, loader)
"""
    made = "    loader = DataLoader(Draws(4), num_workers=2, collate_fn=plain, multiprocessing_context='{}')\n"
    assert drawn(training, made.format(method) + code) == drawn(training, made.format("fork") + code)


def test_seeding_by_batch_gives_the_same_draws_with_any_number_and_kind_of_workers(training: Training) -> None:
    code = """
    loader = DataLoader(Draws(12), batch_size=3, collate_fn=plain, {})
    show('0', loader)
    next(iter(loader))   # an epoch that is left early
    show('2', loader)
"""
    kinds = (
        "num_workers=0",
        "num_workers=3",
        "num_workers=2, persistent_workers=True",
        "num_workers=2, multiprocessing_context='spawn'",
    )
    found = [drawn(training, code.format(kind), loader_seeding="batch") for kind in kinds]
    draws = [{label: [(row[0], *row[3:]) for row in rows] for label, rows in one.items()} for one in found]
    assert draws[0] == draws[1] == draws[3]
    # torch draws one base seed for all epochs of persistent workers.
    assert draws[2]["0"] == draws[0]["0"] and draws[2]["2"] != draws[0]["2"]
    first = [value for rows in draws[0].values() for row in rows for value in row[1:]]
    assert len(set(first)) == len(first) == 2 * 12 * 3


def test_copies_and_loaders_of_odd_types_are_seeded_by_batch_too(training: Training) -> None:
    code = """
    import copy, pickle
    class Odd(DataLoader):
        def __eq__(self, other):
            return self is other
    options = {"batch_size": 3, "collate_fn": plain}
    loader = DataLoader(Draws(6), **options)
    for label, each in (("copied", copy.deepcopy(loader)), ("read", pickle.loads(pickle.dumps(loader))),
                        ("odd", Odd(Draws(6), **options))):
        torch.manual_seed(1)
        show(label, each)
        torch.manual_seed(1)
        show(label, DataLoader(Draws(6), num_workers=1, **options))
"""
    found = drawn(training, code, loader_seeding="batch")
    assert [len(rows) for rows in found.values()] == [12, 12, 12]
    for rows in found.values():
        assert [row[3:] for row in rows[:6]] == [row[3:] for row in rows[6:]]


def test_seeding_by_batch_makes_a_training_with_dropout_independent_of_the_number_of_workers(
    training: Training,
) -> None:
    found = []
    for count in (0, 2):
        training.run(EPOCHS.replace("DEVICE", "'cpu'").replace("WORKERS", str(count)), loader_seeding="batch")
        found.append((training.bits, training.streams[0].weights, training.streams[0].digests))
    assert found[0] == found[1]
    assert epochs(training, 0)[0] != found[0][0]


def test_seeding_by_batch_gives_generators_without_a_seed_the_same_ones_in_any_worker(training: Training) -> None:
    code = """
    class Fresh(Dataset):
        def __len__(self):
            return 6
        def __getitem__(self, index):
            return [index, 0, 0, numpy.random.default_rng().random(), random.Random().random(), 0]
    show('a', DataLoader(Fresh(), batch_size=2, collate_fn=plain, num_workers=COUNT))
"""
    found = [drawn(training, code.replace("COUNT", str(count)), loader_seeding="batch") for count in (0, 2)]
    assert found[0] == found[1]
    assert len({row[3] for row in found[0]["a"]}) == 6


def test_a_data_set_that_fails_under_seeding_by_batch_shows_no_frame_of_ours(training: Training) -> None:
    code = """
from torch.utils.data import DataLoader, Dataset
class Broken(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        raise ValueError("no such sample")
for batch in DataLoader(Broken(), num_workers=COUNT):
    pass
"""
    for count in (0, 1):
        done = training.run(code.replace("COUNT", str(count)), code_ends=1, loader_seeding="batch")
        assert "no such sample" in done.stderr
        assert "reprobox/runtime" not in done.stderr


def test_batches_that_come_as_workers_finish_are_noted_by_the_audit(training: Training) -> None:
    training.run(
        """
from torch.utils.data import DataLoader
DataLoader(range(4), num_workers=2)
DataLoader(range(4), num_workers=1, in_order=False)
DataLoader(range(4), num_workers=2, in_order=False)
"""
    )
    (record,) = training.folder.glob("*/record")
    line = 1 + training.HEAD.count("\n") + 4
    what = "the order in which workers finish their batches (in_order=False)"
    assert read_findings(record, [])["entropy"] == [{"what": what, "where": f"train.py:{line}", "count": 1}]


def test_a_worker_function_of_the_users_that_fails_shows_no_frame_of_ours(training: Training) -> None:
    code = """
from torch.utils.data import DataLoader
def broken(worker):
    raise ValueError("no such file")
next(iter(DataLoader(range(2), num_workers=1, worker_init_fn=broken)))
"""
    done = training.run(code, code_ends=1)
    assert "no such file" in done.stderr
    assert "reprobox/runtime" not in done.stderr


def test_workers_of_iterable_data_sets_draw_differently(training: Training) -> None:
    code = "    show('a', DataLoader(Endless(), num_workers=2, batch_size=2, collate_fn=plain))"
    rows = drawn(training, code, head=False)["a"]
    assert len({row[3] for row in rows}) == 8
    assert drawn(training, code, head=False)["a"] == rows


def test_the_users_own_generator_and_worker_function_stay(training: Training) -> None:
    code = """
    def mine(worker):
        global own
        own = torch.initial_seed()   # what torch has set
        torch.manual_seed(1000 + worker)
    def draw(batch):
        return [[index, *rest[:1], own, *rest[2:]] for index, *rest in batch]
    generator = torch.Generator().manual_seed(7)
    loader = DataLoader(
        Draws(8), shuffle=True, num_workers=2, generator=generator, worker_init_fn=mine, collate_fn=draw
    )
    assert loader.generator is generator and loader.worker_init_fn is mine
    show('a', loader)
"""
    rows = drawn(training, code)["a"]
    (entry,) = training.facts[0]["data_loaders"]
    base = int(entry["base_seeds"][0])
    assert entry["generator"] == "own"
    assert workers(rows) == {0: base, 1: base + 1}
    assert next(row[4] for row in rows if row[1] == "0") == str(random.Random(base).random())


def test_batch_samplers_and_random_split_repeat_from_run_to_run(training: Training) -> None:
    code = """
    from torch.utils.data import BatchSampler, RandomSampler, random_split
    data = Draws(16)
    show('batches', DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 4, False), collate_fn=plain))
    part, rest = random_split(data, [0.5, 0.5])
    show('part', DataLoader(part, collate_fn=plain))
"""
    found = drawn(training, code)
    assert drawn(training, code) == found
    assert [row[0] for row in found["batches"]] != sorted(row[0] for row in found["batches"])
    assert len(found["part"]) == 8


def test_ranks_shuffle_alike_but_their_workers_draw_different_numbers(training: Training) -> None:
    code = """
    show('a', DataLoader(Draws(8), shuffle=True, num_workers=2, collate_fn=plain))
    print("row next", torch.rand(()).item(), random.random(), numpy.random.rand())
"""
    zero = drawn(training, code, env={"RANK": "0"}, head=False)
    one = drawn(training, code, env={"RANK": "1"}, head=False)
    assert [row[0] for row in zero["a"]] == [row[0] for row in one["a"]]
    assert zero["next"] == one["next"]
    for column in (3, 4, 5):
        assert not {row[column] for row in zero["a"]} & {row[column] for row in one["a"]}
    assert drawn(training, code, head=False) == zero


def test_random_states_that_torch_sets_for_itself_do_not_count_as_the_programs_own(training: Training) -> None:
    code = """
    from torch.utils.checkpoint import checkpoint
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    checkpoint(net, torch.ones(2, 4, requires_grad=True), use_reentrant=True).sum().backward()
    with torch.random.fork_rng():
        pass
    show('a', DataLoader(Draws(8), num_workers=2, collate_fn=plain))
"""
    zero, one = (drawn(training, code, env={"RANK": rank}, head=False)["a"] for rank in "01")
    assert not {row[3] for row in zero} & {row[3] for row in one}


WARNED = """
    def numpy_alone(worker):
        numpy.random.seed(1)
    def number(worker):
        random.seed(worker)
    def unused(worker):
        torch.manual_seed(5)
    def well(worker):
        numpy.random.seed(torch.initial_seed() % 2**32), random.seed(torch.initial_seed())
    loaders = [DataLoader(Draws(8), num_workers=2, worker_init_fn=each) for each in (None, well, numpy_alone, number)]
    for epoch in range(2):
        for loader in loaders:
            list(loader)
    list(DataLoader(range(8), num_workers=2, worker_init_fn=unused))   # draws nothing
    with torch.no_grad():
        evaluation = DataLoader(Draws(8), num_workers=2, worker_init_fn=number)
        for epoch in range(2):
            list(evaluation)
    net = torch.nn.Linear(1, 1)
    for seed in (7, 7):
        torch.manual_seed(seed)
        list(loaders[0])
        torch.manual_seed(seed)
        list(DataLoader(Draws(8)))
    net(torch.ones(1)).backward()
"""


def test_workers_and_epochs_that_draw_the_same_because_of_their_seeds_are_warned_of(training: Training) -> None:
    training.run(DRAWS + 'if __name__ == "__main__":\n' + WARNED)
    line = 1 + training.HEAD.count("\n") + (DRAWS + WARNED[: WARNED.index("loaders = ")]).count("\n") + 1
    expected = [
        f"workers of the data loader made at train.py:{line} draw the same numbers from numpy.random",
        f"epochs of the data loader made at train.py:{line} draw the same numbers from random",
    ]
    found = warnings_of_workers(training.record, read_facts(training.record, []).base_seeds, [])
    assert [text.partition(",")[0] for text in found] == expected
    anew = (
        1 + training.HEAD.count("\n") + (DRAWS + WARNED[: WARNED.index("list(DataLoader(Draws(8)))")]).count("\n") + 1
    )
    assert training.warnings == [
        f"the data loader made at train.py:{place} began two epochs in a row from the same random state: what is drawn "
        "from torch repeats; does the program set the same seed before each epoch?"
        for place in (line, anew)
    ]


def test_epochs_are_counted_also_where_a_loader_is_made_anew_for_each(training: Training) -> None:
    code = """
from torch.utils.data import DataLoader
model = torch.nn.Linear(4, 1)
def loader():
    return DataLoader(features)
for epoch in range(EPOCHS):
    for batch in loader():
        model(batch).sum().backward()
    with torch.no_grad():
        list(loader())
"""
    for epochs_trained, warned in ((5, False), (6, True)):
        training.run(code.replace("EPOCHS", str(epochs_trained)), deterministic=False)
        assert any("more than 5 epochs" in text for text in training.warnings) is warned

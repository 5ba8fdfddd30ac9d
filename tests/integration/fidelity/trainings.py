"""Trainings of different styles that seed all they use: `python trainings.py NAME` writes losses and weights.

They know nothing of reprobox. Each has to give the same bits with it and without it.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, SubsetRandomSampler, TensorDataset, random_split

SEED = 1234


def seed_all(seed=SEED):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def keep(name, losses, *modules):
    """Write what a training came to, to the bit."""
    Path("outputs").mkdir(exist_ok=True)
    states = [module.state_dict() for module in modules]
    torch.save({"losses": torch.tensor(losses, dtype=torch.float64), "states": states}, f"outputs/{name}.pt")


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))


class Points(Dataset):
    """Points of a line, each with noise from `draw`."""

    def __init__(self, draw=lambda: 0.0, size=48):
        self.draw = draw
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        point = torch.linspace(-1, 1, 8) * (index / self.size) + float(self.draw())
        return point, point.sum().reshape(1)


def fit(model, loader, epochs=3, optimizer=None):
    """Train, and return the losses."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(epochs):
        for inputs, targets in loader:
            loss = (model(inputs) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def plain():
    seed_all()
    model = network()
    keep("plain", fit(model, DataLoader(Points(), batch_size=8, shuffle=True)), model)


def augmented_by_random():
    seed_all()
    model = network()
    loader = DataLoader(Points(random.random), batch_size=8, shuffle=True, num_workers=2)
    keep("augmented_by_random", fit(model, loader), model)


def augmented_by_numpy():
    seed_all()
    model = network()
    loader = DataLoader(Points(np.random.rand), batch_size=8, shuffle=True, num_workers=2)
    keep("augmented_by_numpy", fit(model, loader), model)


def augmented_by_torch():
    seed_all()
    model = network()
    options = {"batch_size": 8, "shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(Points(lambda: torch.rand(())), **options)
    keep("augmented_by_torch", fit(model, loader), model)


def augmented_in_the_main_process():
    seed_all()
    model = network()
    loader = DataLoader(Points(lambda: torch.rand(()) + random.random() + np.random.rand()), batch_size=8, shuffle=True)
    keep("augmented_in_the_main_process", fit(model, loader), model)


def albumentations():
    import albumentations

    class Images(Dataset):
        def __init__(self):
            crop = albumentations.RandomCrop(8, 8)
            flips = albumentations.HorizontalFlip(p=0.5), albumentations.RandomBrightnessContrast(p=0.8)
            self.transform = albumentations.Compose([crop, *flips], seed=SEED)
            self.images = np.random.default_rng(SEED).integers(0, 255, (32, 12, 12, 3), dtype=np.uint8)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            image = self.transform(image=self.images[index])["image"]
            return torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.tensor([index % 2]).float()

    seed_all()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1))
    keep("albumentations", fit(model, DataLoader(Images(), batch_size=8, shuffle=True, num_workers=2)), model)


def lightning():
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()
            self.losses = []

        def training_step(self, batch, index):
            loss = (self.model(batch[0]) - batch[1]).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    lightning.seed_everything(SEED, workers=True)
    module = Module()
    loader = DataLoader(Points(np.random.rand), batch_size=8, shuffle=True, num_workers=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=2, accumulate_grad_batches=2, **options).fit(module, loader)
    keep("lightning", module.losses, module)


def hugging_face():
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    losses = []

    class Losses(TrainerCallback):
        def on_log(self, arguments, state, control, logs=None, **others):
            losses.extend(value for name, value in (logs or {}).items() if name == "loss")

    words = torch.randint(0, 64, (24, 16), generator=torch.Generator().manual_seed(SEED))
    data = [{"input_ids": row, "labels": row} for row in words]
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=64, n_positions=16))
    arguments = TrainingArguments(
        "/tmp/hugging-face", seed=SEED, num_train_epochs=2, per_device_train_batch_size=4, logging_steps=1,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Losses()]).train()
    keep("hugging_face", losses, model)


def accelerate():
    import accelerate

    accelerate.utils.set_seed(SEED)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(Points(random.random), batch_size=8, shuffle=True, num_workers=1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(2):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = (model(inputs) - targets).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    keep("accelerate", losses, accelerator.unwrap_model(model))


def reinforcement():
    seed_all()
    policy = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        position, velocity, terms = np.random.uniform(-1, 1), 0.0, []
        for _ in range(12):
            choice = torch.distributions.Categorical(logits=policy(torch.tensor([position, velocity]).float()))
            action = choice.sample()
            velocity += 0.1 * (2 * action.item() - 1) + random.gauss(0, 0.01)
            position += velocity
            terms.append(choice.log_prob(action) * abs(position))
        loss = torch.stack(terms).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    keep("reinforcement", losses, policy)


def folds():
    seed_all()
    order = np.random.permutation(48)
    losses, models = [], []
    for fold in range(3):
        model = network()
        chosen = np.delete(order, slice(fold * 16, fold * 16 + 16)).tolist()
        losses += fit(model, DataLoader(Points(), batch_size=8, sampler=SubsetRandomSampler(chosen)), epochs=2)
        models.append(model)
    keep("folds", losses, *models)


def own_sampler():
    seed_all()
    model = network()
    data = Points(random.random)
    sampler = RandomSampler(data, replacement=True, num_samples=24)
    losses = fit(model, DataLoader(data, batch_size=4, sampler=sampler, num_workers=1))
    generator = torch.Generator().manual_seed(SEED)
    losses += fit(model, DataLoader(data, batch_size=4, shuffle=True, generator=generator))
    keep("own_sampler", [*losses, torch.rand(()).item(), random.random(), np.random.rand()], model)


def worker_function():
    def seed(worker):
        np.random.seed((torch.initial_seed() + worker) % 2**32)

    seed_all()
    model = network()
    loader = DataLoader(Points(np.random.rand), batch_size=8, shuffle=True, num_workers=2, worker_init_fn=seed)
    keep("worker_function", fit(model, loader), model)


def adversarial():
    seed_all()
    maker, judge = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    both = [torch.optim.Adam(module.parameters(), lr=1e-3) for module in (maker, judge)]
    losses = []
    for (real,) in DataLoader(TensorDataset(torch.randn(32, 8)), batch_size=8, shuffle=True):
        made = maker(torch.randn(8, 4))
        true, false = judge(real).sigmoid(), judge(made.detach()).sigmoid()
        loss = nn.functional.binary_cross_entropy(torch.cat([true, false]), torch.cat([true * 0 + 1, false * 0]))
        both[1].zero_grad()
        loss.backward()
        both[1].step()
        loss_of_maker = -judge(made).mean()
        both[0].zero_grad()
        loss_of_maker.backward()
        both[0].step()
        losses += [loss.item(), loss_of_maker.item()]
    keep("adversarial", losses, maker, judge)


def recurrent():
    seed_all()
    train, rest = random_split(TensorDataset(torch.randn(40, 6, 4), torch.randn(40, 1)), [32, 8])

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells, self.out = nn.LSTM(4, 8, 2, batch_first=True, dropout=0.2), nn.Linear(8, 1)

        def forward(self, inputs):
            return self.out(self.cells(inputs)[0][:, -1])

    model = Reader()
    losses = fit(model, DataLoader(train, batch_size=8, shuffle=True), 2, torch.optim.RMSprop(model.parameters()))
    keep("recurrent", [*losses, float(len(rest))], model)


def resumed():
    seed_all()
    model, data = network(), Points(lambda: random.random() + torch.rand(()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = fit(model, DataLoader(data, batch_size=8, shuffle=True, num_workers=1), 1, optimizer)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    saved |= {"torch": torch.get_rng_state(), "random": random.getstate()}
    torch.save(saved, "/tmp/checkpoint.pt")
    saved = torch.load("/tmp/checkpoint.pt", weights_only=False)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["torch"])
    random.setstate(saved["random"])
    losses += fit(model, DataLoader(data, batch_size=8, shuffle=True, num_workers=1), 1, optimizer)
    keep("resumed", losses, model)


if __name__ == "__main__":
    globals()[sys.argv[1]]()

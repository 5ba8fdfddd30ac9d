"""Train a small GPT-2 from scratch, byte by byte, on the data set descriptions that ship with scikit-learn.

The text is about 30 kB of English prose; it comes with the installed package, so nothing is downloaded.
"""

import argparse
import json
import math
from importlib import resources
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 256  # a token is a byte of UTF-8


def load_text():
    """Return all descriptions, in alphabetical order, as one string of prose."""
    folder = resources.files("sklearn.datasets.descr")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".rst"))
    lines = [line for name in names for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    return "\n".join(" ".join(line.split()) for line in lines if is_prose(line))


def is_prose(line):
    """Tell sentences from tables, code and rules: they are mostly letters and spaces."""
    return sum(letter.isalpha() or letter == " " for letter in line) > 0.8 * len(line)


def encode(text):
    """Turn a string into a tensor of token numbers."""
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.long)


def decode(tokens):
    """Turn token numbers back into a string; bytes that are not UTF-8 become a replacement character."""
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


class Windows(Dataset):
    """All stretches of `length` consecutive tokens that start at multiples of `stride`."""

    def __init__(self, tokens, length, stride):
        self.windows = tokens.unfold(0, length, stride)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return self.windows[index]


def build_model(context, width, layers, heads):
    """A GPT-2 with fresh weights. Without dropout, because so short a training underfits rather than overfits."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.05,  # GPT-2's 0.02 suits a width of 768
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)


def learning_rate_factor(step, warmup, total):
    """Rise linearly for `warmup` steps, then fall along a cosine to a tenth at step `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def next_byte_loss(model, windows):
    """Return the mean cross entropy, in nats a byte, of each byte given those before it in its window."""
    logits = model(windows[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model, loader, device):
    """Return the mean loss over all windows."""
    model.eval()
    losses = [next_byte_loss(model, windows.to(device)) * len(windows) for windows in loader]
    return sum(losses).item() / len(loader.dataset)


@torch.no_grad()
def sample(model, prompt, length, device, temperature=0.7):
    """Continue `prompt` by `length` bytes drawn from the model."""
    model.eval()
    tokens = encode(prompt).unsqueeze(0).to(device)
    for _ in range(length):
        logits = model(tokens[:, -model.config.n_positions :]).logits[:, -1]
        following = torch.multinomial(F.softmax(logits / temperature, dim=-1), num_samples=1)
        tokens = torch.cat([tokens, following], dim=1)
    return decode(tokens[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--context", type=int, default=64, help="bytes that the model sees at once")
    parser.add_argument("--stride", type=int, default=6, help="bytes from one training window to the next")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = encode(load_text())
    border = int(0.9 * len(tokens))
    # A window holds one byte more than the model sees, because the last byte is only predicted.
    train_set = Windows(tokens[:border], args.context + 1, args.stride)
    test_set = Windows(tokens[border:], args.context + 1, args.context)
    train_loader = DataLoader(
        train_set, batch_size=args.batch_size, shuffle=True, drop_last=True, num_workers=args.workers
    )
    test_loader = DataLoader(test_set, batch_size=args.batch_size)

    model = build_model(args.context, args.width, args.layers, args.heads).to(device)
    print(f"{len(tokens):,} bytes of text, {model.num_parameters():,} parameters, training on {device}", flush=True)

    total = args.epochs * len(train_loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.1, betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, 20, total))

    step = 0
    history = []
    for epoch in range(1, args.epochs + 1):
        model.train()
        for windows in train_loader:
            loss = next_byte_loss(model, windows.to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if step % 50 == 0 or step == total - 1:
                print(f"step {step:4d}/{total}  loss {loss.item():.4f}", flush=True)
            step += 1
        test_loss = evaluate(model, test_loader, device)
        history.append({"epoch": epoch, "loss": loss.item(), "test_loss": test_loss})
        print(f"epoch {epoch}  test loss {test_loss:.4f}", flush=True)

    text = sample(model, "The data set ", 200, device)
    print(f"\n{text}")

    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.output / "model.pt")
    (args.output / "metrics.json").write_text(json.dumps({"test_loss": test_loss, "history": history}, indent=2) + "\n")
    (args.output / "sample.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

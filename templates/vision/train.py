"""Train a small convolutional network on scikit-learn's handwritten digits.

The digits are 1,797 scanned 8 x 8 grey-scale images that ship inside scikit-learn, so nothing is downloaded.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    """Images as 1 x 8 x 8 float tensors in [0, 1]; with `augment`, a little different each time they are read."""

    def __init__(self, images, labels, augment=False):
        self.images = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1) / 16
        self.labels = torch.as_tensor(labels)
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        if self.augment:
            image = shift(image, right=random.randint(-1, 1), down=random.randint(-1, 1))
            image = image * float(np.random.uniform(0.8, 1.2))
            image = image + 0.05 * torch.randn_like(image)
        return image, self.labels[index]


def shift(image, right, down):
    """Move the image by at most one pixel in each direction; what comes in is black."""
    padded = F.pad(image, (1, 1, 1, 1))
    height, width = image.shape[-2:]
    return padded[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


class Network(nn.Module):
    """Three convolutions with batch normalisation, then a linear classifier on the averaged features."""

    def __init__(self, width=48, classes=10):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * width * 4 * 4, classes))

    def forward(self, images):
        return self.classifier(self.features(images))


def train_one_epoch(model, loader, optimizer, scheduler, device):
    """One pass over the training set; return the mean loss."""
    model.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() * len(labels)
    return total / len(loader.dataset)


@torch.no_grad()
def evaluate(model, loader, device):
    """Return the share of images that are classified correctly."""
    model.eval()
    correct = 0
    for images, labels in loader:
        predicted = model(images.to(device)).argmax(dim=1)
        correct += (predicted == labels.to(device)).sum().item()
    return correct / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=2, help="processes that load and augment images")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    args = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    train_loader = DataLoader(
        Digits(train_images, train_labels, augment=True),
        batch_size=args.batch_size,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    test_loader = DataLoader(Digits(test_images, test_labels), batch_size=256)

    model = Network().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=args.lr, epochs=args.epochs, steps_per_epoch=len(train_loader)
    )

    history = []
    for epoch in range(1, args.epochs + 1):
        loss = train_one_epoch(model, train_loader, optimizer, scheduler, device)
        accuracy = evaluate(model, test_loader, device)
        history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
        print(f"epoch {epoch}  loss {loss:.4f}  accuracy {accuracy:.4f}", flush=True)

    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.output / "model.pt")
    (args.output / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "history": history}, indent=2) + "\n")


if __name__ == "__main__":
    main()

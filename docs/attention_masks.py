"""Draws docs/attention_masks.png: the masks of a student and a teacher over a real photo.

    python docs/attention_masks.py [--steps 8] [--out docs/attention_masks.png]

The teacher is a small convolutional network that has learned to restore scikit-learn's two sample photos from
noise; it is then frozen. The student, a quarter as wide, imitates it through CooperativeMasks, masked_mse and
dice_diversity, as in ACAM-KD. No weights are downloaded. Needs scikit-learn and matplotlib.

It stops early. On two photos nothing holds the masks back: some 40 steps later the loss has driven all but
one to 0, the collapse that docs/attention_masks.md warns of (see --steps 50).
"""

from __future__ import annotations

import argparse

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib import pyplot
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.nn import CooperativeMasks

SIZE = (216, 320)  # of the photos
NUM_MASKS = 6
DIVERSITY = 1.0  # weight of the overlap
# Attention maps and units start far from 0: training would bring them there, but not in a few steps.
SHARPNESS, SPREAD = 6.0, 30.0


def photos() -> Tensor:
    """china.jpg and flower.jpg as [2, 3, H, W] in [0, 1]."""
    images = [torch.tensor(x).permute(2, 0, 1) / 255 for x in load_sample_images().images]
    return F.interpolate(torch.stack(images), size=SIZE, mode="area")


def network(width: int) -> nn.Sequential:
    """Features [B, 4 width, H / 8, W / 8]."""
    widths = (3, width, 2 * width, 4 * width)
    layers: list[nn.Module] = []
    for i, o in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(1, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_teacher(images: Tensor, steps: int) -> nn.Module:
    """An encoder whose features restore a photo from noise."""
    encoder = network(24)
    decoder = nn.Sequential(nn.Conv2d(96, 192, 1), nn.PixelShuffle(8))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], 3e-3)
    for _ in range(steps):
        noisy = images + 0.2 * torch.randn_like(images)
        loss = F.mse_loss(decoder(encoder(noisy).relu()), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"teacher: mean squared error of restored photos {float(loss.detach()):.4f}")
    return encoder.requires_grad_(False)


def train_masks(images: Tensor, teacher: nn.Module, steps: int) -> Tensor:
    """The spatial masks [2, M, h, w] after a student has learned through them."""
    theirs = F.instance_norm(teacher(images))
    student, align = network(6), nn.Conv2d(24, 96, 1)
    masks = CooperativeMasks(96, 24, NUM_MASKS)
    for projection in (masks.query, masks.key):
        projection.weight.data *= SHARPNESS
    masks.spatial_units.data *= SPREAD
    optimizer = torch.optim.AdamW([*student.parameters(), *align.parameters(), *masks.parameters()], 1e-3)
    for step in range(steps + 1):
        ours = student(images)
        spatial, channel = masks(ours, theirs)
        by_position, by_channel = KF.masked_mse(align(ours), theirs, spatial=spatial, channel=channel)
        overlap = KF.dice_diversity(spatial) + KF.dice_diversity(channel)
        if step % 4 == 0:
            mean = float(masks.statistics(spatial, channel)["spatial_mean"])
            losses = f"{float(by_position.detach()):.3f}, {float(by_channel.detach()):.3f}"
            print(
                f"step {step}: masked losses {losses}; overlap {float(overlap.detach()):.2f}; mean {mean:.2f}"
            )
        optimizer.zero_grad()
        (by_position + by_channel + DIVERSITY * overlap).backward()
        optimizer.step()
    return spatial.detach()


def draw(image: Tensor, masks: Tensor, out: str) -> None:
    """The photo [3, H, W], and beside it each mask [M, h, w] over it, from its least value to its largest."""
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(1, 1 + len(masks), figsize=(11, 1.35), layout="constrained")
    grey = image.mean(0)
    axes[0].imshow(image.permute(1, 2, 0))
    axes[0].set_title("photo", fontsize=7)
    for number, (axis, mask) in enumerate(zip(axes[1:], masks, strict=True), 1):
        large = F.interpolate(mask[None, None], size=image.shape[1:], mode="bilinear")[0, 0]
        axis.imshow(grey, cmap="gray", vmin=0, vmax=1)
        axis.imshow(large, cmap="inferno", alpha=0.7)
        axis.set_title(f"mask {number}: {float(mask.min()):.2f} to {float(mask.max()):.2f}", fontsize=7)
    for axis in axes:
        axis.axis("off")
    figure.savefig(out, dpi=100)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="of the student's training")
    parser.add_argument("--out", default="docs/attention_masks.png")
    options = parser.parse_args()
    torch.manual_seed(0)
    images = photos()
    masks = train_masks(images, train_teacher(images, 150), options.steps)
    draw(images[1], masks[1], options.out)


if __name__ == "__main__":
    main()

"""The teacher's mean embedding of every class, over its training images with their augmentation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kdfast
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder


@torch.no_grad()
def class_means(
    teacher: nn.Module,
    embedding: str,
    samples: Dataset,
    *,
    classes: int,
    augment: nn.Module | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "cpu",
    provenance: Mapping[str, str] | None = None,
) -> kdfast.nn.ClassMeans:
    """One pass of the frozen teacher over (image, class) samples.

    Args:
        embedding: path of what the classifier gets, [B, D]; see network_parts.expose_embedding.
        augment: of batches; the paper's means are of augmented training images.
    """
    loader = DataLoader(samples, batch_size=batch_size, num_workers=workers)
    tap = kdfast.FeatureTap(teacher.to(device).eval(), {"embedding": embedding})
    means: kdfast.nn.ClassMeans | None = None
    with tap:
        for images, target in loader:
            images = images.to(device)
            features = tap(images if augment is None else augment(images))[1]["embedding"].float()
            if means is None:
                means = kdfast.nn.ClassMeans(classes, features.shape[1], provenance=provenance).to(device)
            means.update(features, target.to(device))
    teacher.cpu()
    return means.cpu()


def load_means(path: str, *, classes: int, dim: int, teacher: str) -> kdfast.nn.ClassMeans:
    """Means from a file of `kdfast class-means`, of a run, or of the official code (.json).

    Args:
        teacher: fingerprint of the teacher; a file that names another one is refused.

    Raises:
        UserError: the file cannot be read, or belongs to other classes, another width or another teacher.
    """
    try:
        made = kdfast.nn.ClassMeans
        means = made.from_json(path) if path.endswith(".json") else made.load(path)
    except Exception as error:  # safetensors has an exception of its own
        raise UserError(f"--class-means {path} cannot be read: {error}") from error
    if (means.num_classes, means.dim) != (classes, dim):
        raise UserError(
            f"--class-means {path} holds {means.num_classes} classes of {means.dim} features; the data has "
            f"{classes} classes and the teacher {dim} features"
        )
    named = means.provenance.get("fingerprint", "")
    if named and named != teacher:
        raise UserError(f"--class-means {path} belongs to another teacher ({named}, not {teacher})")
    return means


def save_means(means: kdfast.nn.ClassMeans, out: RunFolder, name: str = "class-means.safetensors") -> None:
    """Write the means into the run's folder, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        means.save(path)
        if path.exists():
            out.write(name, path.read_bytes())

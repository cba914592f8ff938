"""Drawn B-scans, declared as such: normal, drusen, CNV. For tests and demonstrations of the whole pipeline.

A retina of bright and dark layers with a foveal pit, above a bright pigment epithelium; drusen lift the
epithelium in small bumps; a neovascular membrane (cnv) lifts it more, blurs it and lets fluid (dark) collect
above. Speckle is multiplicative. A patient has a shape and a brightness that all its scans share, so that a
network that has seen a patient knows its other scans: what splits by patient are for.
"""

from __future__ import annotations

import numpy as np

CLASSES = ("normal", "drusen", "cnv")


def b_scans(
    patients: int, scans: int, *, size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-> images [N, size, size] uint8, labels [N], patient numbers [N]; N = patients x scans.

    Patients have one grade each: half are normal, the others drusen or cnv alike.
    """
    draw = np.random.default_rng(seed)
    images, labels, owners = [], [], []
    for patient in range(patients):
        label = 0 if patient % 2 == 0 else 1 + (patient // 2) % 2
        person = {
            "tilt": draw.normal(0, 0.04),
            "pit": draw.uniform(0.02, 0.07),
            "gain": draw.uniform(0.75, 1.2),
        }
        for _ in range(scans):
            images.append(_scan(label, person, size, draw))
            labels.append(label)
            owners.append(patient)
    return np.stack(images), np.array(labels), np.array(owners)


def _scan(label: int, person: dict[str, float], size: int, draw: np.random.Generator) -> np.ndarray:
    x = np.linspace(-1, 1, size)
    rows = np.linspace(0, 1, size)[:, None]
    epithelium = 0.68 + person["tilt"] * x + 0.03 * x**2 + draw.normal(0, 0.01)  # depth of each column
    lift = _lift(label, x, draw)
    top = epithelium - 0.3 + person["pit"] * np.exp(-((x / 0.25) ** 2)) - 0.3 * lift
    boundary = epithelium - lift
    depth = (rows - top) / (boundary - top)  # 0 at the inner limit, 1 at the epithelium
    layers = 0.45 + 0.18 * np.cos(2 * np.pi * 2.5 * depth)
    image = np.where((depth >= 0) & (depth <= 1), layers, 0.06)
    below = np.clip((rows - boundary) / 0.25, 0, 1)
    image = np.where(rows > boundary, 0.35 * (1 - below), image)
    band = 0.018 if label < 2 else 0.03
    image += 0.9 * np.exp(-(((rows - boundary) / band) ** 2)) * (1.0 if label < 2 else 0.75)
    if label == 2:
        image = _fluid(image, x, rows, boundary, draw)
    speckle = draw.gamma(6.0, 1 / 6.0, image.shape)
    return (np.clip(image * speckle * person["gain"], 0, 1) * 255).astype(np.uint8)


def _lift(label: int, x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """How far the epithelium is raised in each column."""
    if label == 0:
        return np.zeros_like(x)
    if label == 1:
        centres = draw.uniform(-0.8, 0.8, draw.integers(2, 6))
        bumps = [draw.uniform(0.02, 0.06) * np.exp(-(((x - c) / 0.07) ** 2)) for c in centres]
        return np.sum(bumps, axis=0)
    centre, width = draw.uniform(-0.4, 0.4), draw.uniform(0.2, 0.4)
    ragged = 1 + 0.3 * np.convolve(draw.normal(0, 1, x.size), np.ones(5) / 5, "same")
    return draw.uniform(0.06, 0.14) * np.exp(-(((x - centre) / width) ** 2)) * ragged


def _fluid(image: np.ndarray, x: np.ndarray, rows: np.ndarray, boundary: np.ndarray, draw) -> np.ndarray:
    """Dark pockets above the membrane."""
    for _ in range(draw.integers(1, 3)):
        place = draw.integers(x.size // 5, 4 * x.size // 5)
        height = boundary[place] - draw.uniform(0.06, 0.14)
        inside = ((x - x[place]) / draw.uniform(0.1, 0.2)) ** 2 + ((rows - height) / 0.045) ** 2 < 1
        image = np.where(inside, 0.05, image)
    return image

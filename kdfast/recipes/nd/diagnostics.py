"""What ND does to the embeddings: their norms, and their angle to the class's direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import kdfast
from kdfast.recipes.common.network_parts import expose_embedding
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.sections import called
from kdfast.recipes.common.study import Study


@torch.no_grad()
def embeddings(network: nn.Module, samples: Dataset, *, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """What the classifier of `network` gets for all samples [N, D], and their labels [N]."""
    path, _ = expose_embedding(network)
    dtype = next(network.parameters()).dtype  # --teacher-precision has cast the teacher
    with kdfast.FeatureTap(network.eval(), {"embedding": path}) as tap:
        parts = [
            (tap(images.to(dtype))[1]["embedding"], target)
            for images, target in DataLoader(samples, batch_size=batch_size)
        ]
    features, targets = zip(*parts, strict=True)
    return torch.cat(features).float(), torch.cat(targets)


def norm_and_cosine(features: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean norm, and mean cosine with the mean of the sample's class among these samples."""
    classes = int(target.max()) + 1
    sums, counts = kdfast.functional.class_sums(features, target, classes)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    cosine = F.cosine_similarity(features, means[target], dim=1)
    return float(features.norm(dim=1).mean()), float(cosine.mean())


def add_norms(report: Report, study: Study) -> None:
    """Norm and direction of every network's embeddings of the validation images."""
    rows = []
    for name, network in study.networks.items():
        features, target = embeddings(network, study.images.validation)
        norm, cosine = norm_and_cosine(features, target)
        rows.append((called(name), features.shape[1], f"{norm:.2f}", f"{cosine:.3f}"))
    note = (
        "Validation images, networks of the first seed. Cosine: with the network's own mean embedding of the "
        "sample's class. ND lets norms grow to the teacher's and turns embeddings along its class means."
    )
    columns = ("network", "width", "mean norm", "mean cosine")
    report.table("Norm and direction of the embeddings", columns, rows, half=True, note=note)

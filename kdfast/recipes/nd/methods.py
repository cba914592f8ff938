"""A student under one of the methods: kd, dkd, dist, reviewkd, and the same with ND: kd++, dkd++, ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

import kdfast
from kdfast.nn import DISTLoss, DKDLoss, KLDivLoss, NDLoss
from kdfast.ops.dist_loss import dist_loss_reference
from kdfast.ops.dkd_loss import dkd_loss_reference
from kdfast.ops.kl_div import kl_div_reference
from kdfast.ops.nd_loss import nd_loss_reference
from kdfast.recipes.common.network_parts import expose_embedding, stages
from kdfast.recipes.nd.adapter import EmbeddingAdapter
from kdfast.recipes.nd.review import ReviewKD

PLAIN = ("kd", "dkd", "dist", "reviewkd")
METHODS = (*PLAIN, *(f"{name}++" for name in PLAIN))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Of one method's terms; cross-entropy has weight 1.

    kd: of the KL, DIST or ReviewKD term, and of all of DKD (whose parts have alpha and beta). nd: of the ND
    term. temperature: T. warmup: epochs over which kd rises to its value.
    """

    kd: float = 1.0
    nd: float = 1.0
    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    warmup: float = 20.0


def distiller(
    method: str,
    student: nn.Module,
    teacher: nn.Module,
    *,
    class_means: Tensor | None = None,
    weights: Weights | None = None,
    example: Tensor | None = None,
    **options: object,
) -> kdfast.Distiller:
    """A Distiller of the method's loss.

    Args:
        class_means: [K, D] of the teacher, for the methods with ++.
        example: images [1, C, H, W], from which ReviewKD finds the stages of both networks.
        options: of Distiller, such as teacher_dtype.

    Raises ValueError for an unknown method, missing means or an example that is needed, and networks without
    stages that match.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: one of {', '.join(METHODS)} is needed")
    weights = weights or Weights()
    base, plus = method.removesuffix("++"), method.endswith("++")
    share = {"name": base, "weight": weights.kd, "warmup": weights.warmup}
    if base == "kd":
        term = kdfast.Term(KLDivLoss(temperature=weights.temperature), **share)
    elif base == "dkd":
        loss = DKDLoss(alpha=weights.alpha, beta=weights.beta, temperature=weights.temperature)
        term = kdfast.Term(loss, target=True, **share)
    elif base == "dist":
        term = kdfast.Term(DISTLoss(temperature=weights.temperature), **share)
    else:
        term = review_term(student, teacher, example, share)
    terms = [term]
    if plus:
        if class_means is None:
            raise ValueError(f"method {method!r} needs class_means")
        terms.append(nd_term(student, teacher, class_means, weight=weights.nd))
    return kdfast.Distiller(student, teacher, terms, nn.CrossEntropyLoss(), **options)


def nd_term(
    student: nn.Module, teacher: nn.Module, class_means: Tensor, *, weight: float = 1.0
) -> kdfast.Term:
    """The ND term between the embeddings of two classifiers, adapted where their widths differ."""
    (ours, width), (theirs, dim) = expose_embedding(student), expose_embedding(teacher)
    if class_means.shape[1] != dim:
        raise ValueError(
            f"class_means is {list(class_means.shape)}, but the teacher's embedding has {dim} features"
        )
    adapter = None if width == dim else EmbeddingAdapter(width, dim)
    return kdfast.Term(
        NDLoss(class_means), ours, theirs, name="nd", weight=weight, adapter=adapter, target=True
    )


def review_term(student: nn.Module, teacher: nn.Module, example: Tensor | None, share: dict) -> kdfast.Term:
    """ReviewKD over the stages of two CNNs and their embeddings."""
    if example is None:
        raise ValueError("reviewkd needs an example of the images, to find the networks' stages")
    ours, theirs = stages(student, example), stages(teacher, example)
    levels = min(len(ours), len(theirs))
    if not levels:
        raise ValueError("reviewkd needs CNNs: student or teacher has no maps [B, C, H, W]")
    ours, theirs = ours[-levels:], theirs[-levels:]
    paths, shapes = [], []
    for network, found in ((student, ours), (teacher, theirs)):
        path, width = expose_embedding(network)
        paths.append((*(name for name, _ in found), path))
        shapes.append([*(shape for _, shape in found), (width, 1, 1)])
    return kdfast.Term(ReviewKD(*shapes), *paths, **share)


def plain_losses(
    method: str, weights: Weights, class_means: Tensor | None
) -> dict[str, Callable[..., Tensor]]:
    """The method's terms by the definitions in plain PyTorch, for the comparison of times."""
    temperature = {"temperature": weights.temperature}
    base = method.removesuffix("++")
    found: dict[str, Callable[..., Tensor]] = {
        "kd": partial(kl_div_reference, **temperature),
        "dkd": partial(dkd_loss_reference, alpha=weights.alpha, beta=weights.beta, **temperature),
        "dist": partial(dist_loss_reference, **temperature),
    }
    chosen = {base: found[base]} if base in found else {}
    if method.endswith("++"):

        def nd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return nd_loss_reference(student, teacher, class_means.to(student.device), target)

        chosen["nd"] = nd
    return chosen


__all__ = ["METHODS", "Weights", "distiller", "nd_term", "plain_losses", "review_term"]

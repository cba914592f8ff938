"""Relational distillation by angles: the angle that every two samples of a batch make at a third.

Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, eqs. 8-10.

Plain PyTorch on every backend: the work is one [B, D] x [D, B] product a corner, which torch's matrix product
does; no kernel of this library has the Huber loss behind it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kdfast.ops._again import made_again
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero, divide, safe_norm
from kdfast.ops._product import product
from kdfast.ops.similarity_preserving import check_batches


def rkd_angle_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: the mean over triples (i, j, k) of the Huber loss of cos of the angle at i."""
    compute = compute_type(student, teacher)
    s, t = (x.flatten(1).to(compute) for x in (student, teacher.detach()))
    rows = s.size(0)
    return _huber(s, t, s, t) / rows**3 if rows else attached_zero(student, compute)


def _cosines(corners: Tensor, points: Tensor) -> Tensor:
    edge = points.unsqueeze(0) - corners.unsqueeze(1)  # [n, B, D]
    edge = divide(edge, safe_norm(edge).unsqueeze(-1).expand_as(edge))
    return product(edge, edge.mT)  # [n, B, B]


def _huber(s_corners: Tensor, t_corners: Tensor, s: Tensor, t: Tensor) -> Tensor:
    return F.smooth_l1_loss(_cosines(s_corners, s), _cosines(t_corners, t), reduction="sum")


def rkd_angle(student: Tensor, teacher: Tensor, *, chunk_rows: int = 16) -> Tensor:
    """Huber loss between the cosines of all angles of a batch, corners taken `chunk_rows` at a time.

    Memory is chunk_rows x B x (B + D) and not B^3: a chunk's tensors are made again in the backward pass.

    Args:
        student: embeddings [B, ...], flattened; gets the gradient.
        teacher: embeddings [B, ...] of any width; a constant.
        chunk_rows: corners at a time, 1 or more. It does not change the result beyond rounding.

    Returns 0-d, float32 (float64 if an input is): the mean over the B^3 triples.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    check_batches(student, teacher)
    if not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise ValueError(f"chunk_rows must be an int of 1 or more, got {chunk_rows!r}")
    compute = compute_type(student, teacher)
    s, t = (x.flatten(1).to(compute) for x in (student, teacher.detach()))
    total = attached_zero(student, compute)
    for corners in zip(s.split(chunk_rows), t.split(chunk_rows), strict=True):
        if corners[0].numel():
            total = total + made_again(_huber, *corners, s, t)
    return total / max(s.size(0), 1) ** 3

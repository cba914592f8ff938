"""CanKD: the student's map is lifted by a non-local block over the teacher's, then both must agree.

Sun & Ohyama, "CanKD: Cross-Attention-based Non-local operation for Feature-based Knowledge Distillation",
WACV 2026, arXiv 2511.21503.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.ops import _check
from kdfast.ops._definition import compute_type


class NonLocalFusion(nn.Module):
    """z = student + W(theta(student) . phi(teacher) g(teacher) / L): a non-local block without a softmax.

    Args:
        channels: C of both maps.
        inner_channels: of theta, phi and g; max(1, C // 2) by default.
        kv_pool: max-pools phi and g by this factor; 1 for none (the paper: 2).
        batch_norm: a BatchNorm2d behind W. It, or W, starts at 0, so that z starts as the student.
        associate: how KF.nonlocal_attention multiplies.

    Raises TypeError or ValueError for bad options.
    """

    def __init__(
        self,
        channels: int,
        inner_channels: int | None = None,
        *,
        kv_pool: int = 2,
        batch_norm: bool = True,
        associate: bool | None = None,
    ) -> None:
        super().__init__()
        self.channels = _check.whole_number("channels", channels, 1)
        inner = max(1, channels // 2) if inner_channels is None else inner_channels
        inner = _check.whole_number("inner_channels", inner, 1)
        self.kv_pool = _check.whole_number("kv_pool", kv_pool, 1)
        self.associate = associate
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        out = nn.Conv2d(inner, channels, 1)
        norm = nn.BatchNorm2d(channels) if _check.flag("batch_norm", batch_norm) else None
        last = out if norm is None else norm
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.out = out if norm is None else nn.Sequential(out, norm)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[B, C, H, W]; the teacher [B, C, H, W] is a constant, phi and g are trained.

        Raises TypeError, ValueError or RuntimeError for bad input.
        """
        self._check_maps(student, teacher)
        teacher = teacher.detach().to(student.dtype)
        pool = lambda x: F.max_pool2d(x, self.kv_pool) if self.kv_pool > 1 else x  # noqa: E731
        query, key, value = self.theta(student), pool(self.phi(teacher)), pool(self.g(teacher))
        seen = KF.nonlocal_attention(
            query.flatten(2), key.flatten(2), value.flatten(2), associate=self.associate
        )
        return student + self.out(seen.unflatten(2, student.shape[2:]).to(query.dtype))

    def _check_maps(self, student: object, teacher: object) -> None:
        for name, x in (("student", student), ("teacher", teacher)):
            _check.floating(name, x)
            if x.dim() != 4 or x.size(1) != self.channels:
                raise ValueError(
                    f"{name} must be [batch, {self.channels}, height, width], got {tuple(x.shape)}"
                )
        if student.size(0) != teacher.size(0):
            raise ValueError(
                f"student and teacher must have the same batch, got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}"
            )
        if min(teacher.shape[2:]) < self.kv_pool or min(student.shape[2:]) < 1:
            raise ValueError(
                f"teacher must be at least {self.kv_pool} high and wide, got shape {tuple(teacher.shape)}"
            )
        _check.same_device("teacher", teacher, "student", student)


class CanKDLoss(nn.modules.loss._Loss):
    """Half the mean squared difference of the lifted student and the teacher, both instance-normalised.

    CanKDLoss(channels)(student [B, C, H, W], teacher [B, C, H, W]) -> 0-d. Options are NonLocalFusion's; the
    paper weighs the loss by 5 to 10. Export drops this module, the student stays as it is.
    """

    def __init__(self, channels: int, inner_channels: int | None = None, **options) -> None:
        super().__init__()
        self.fusion = NonLocalFusion(channels, inner_channels, **options)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        lifted = self.fusion(student, teacher)
        if lifted.shape != teacher.shape:
            raise ValueError(
                f"student and teacher must have the same shape, got {tuple(student.shape)} and "
                f"{tuple(teacher.shape)}"
            )
        compute = compute_type(student, teacher)
        with torch.autocast(student.device.type, enabled=False):
            lifted, teacher = (_instance_norm(x.to(compute)) for x in (lifted, teacher.detach()))
            return F.mse_loss(lifted, teacher) / 2


def _instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """torch's instance_norm refuses maps of one position; those are 0 here."""
    centered = x - x.mean((2, 3), keepdim=True)
    return centered * (centered.square().mean((2, 3), keepdim=True) + eps).rsqrt()

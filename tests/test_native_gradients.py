"""Every loss's gradient, as its CUDA kernels make it, against the value that they give: along a random
direction, by central differences of order 6, in float64 on the emulated device.

This needs no definition: it holds whatever the formula is, for value and gradient are made by separate code.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native import attention_runs, feature_runs, mask_runs, pair_runs, row_loss_runs
from test_native_row_loss import cases
from torch import Tensor

STEP = 1e-3
SIXTH_ORDER = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}
# A loss: the tensors it is differentiated by, and what gives its value and their gradients.
Loss = tuple[list[Tensor], Callable[..., tuple[Tensor, list[Tensor]]]]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row_losses(native, classes: int) -> dict[str, Loss]:
    """Those of test_native_row_loss.py, where every value is finite."""
    found = {}
    for name, student, inputs, _ in cases(classes, torch.float64):
        some = student.isinf().any(-1) & ~student.isinf().all(-1)
        student = torch.where(some[:, None], student[0], student)  # their values may be infinite

        def loss(x, name=name, inputs=inputs):
            values = row_loss_runs.run(native, name, x, with_grad=False, **inputs)[0]
            return sum(v.sum() for v in values), [row_loss_runs.run(native, name, x, **inputs)[2]]

        found[f"{name} {inputs['param']}" if "param" in inputs else name] = [student], loss
    return found


def feature_losses(native, seed: int) -> dict[str, Loss]:
    """On rows, on [batch, positions, channels], and on masks."""
    x, t = randn(2, 5, 3, seed=seed), randn(2, 5, 3, seed=seed + 1)
    weights = [randn(2, n, seed=seed + n).abs() for n in (5, 3)]
    means, target = randn(2, 3, seed=seed + 2), torch.arange(5) % 2

    def nd(s):
        value, _, grad = feature_runs.nd_loss(native, s, t[0] * 0.1, means, target)
        return value.sum(), [grad]

    def normalized(s, center):
        value, grad = feature_runs.normalized_mse(native, s, t, center=center)
        return value.sum(), [grad]

    def weighted(s):
        position, channel = weights
        values, *_, grad = feature_runs.weighted_mse(
            native, s, t, position=position, channel=channel, gain=channel + 1
        )
        return values.sum(), [grad]

    def dice(masks, pairwise):
        value, grad = mask_runs.dice_diversity(native, masks, pairwise)
        return value.sum(), [grad]

    def dist(s):
        return (lambda value, grad: (value, [grad]))(
            *row_loss_runs.dist_loss(native, s, t[0], temperature=2.0, beta=0.5, gamma=2.0)
        )

    return {
        "nd_loss": ([x[0]], nd),
        "normalized_mse": ([x], lambda s: normalized(s, False)),
        "normalized_mse centred": ([x], lambda s: normalized(s, True)),
        "weighted_mse": ([x], weighted),
        "dice_diversity": ([x.sigmoid()], lambda m: dice(m, False)),
        "dice_diversity pairwise": ([x.sigmoid()], lambda m: dice(m, True)),
        "dist_loss": ([x[0]], dist),
    }


def pair_losses(native, seed: int) -> dict[str, Loss]:
    """Boxes overlap or lie apart, and anchors' gates stand, far from where they change."""
    s, t = randn(3, 8, seed=seed), randn(3, 8, seed=seed + 1)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.3, 0.1, 0.2], [0.7, 0.4, 0.2, 0.5]]).double()
    other = boxes + torch.tensor([0.05, -0.03, 0.2, 0.1])
    logits = torch.tensor([[[2.0, -1.0, 0.3, 0.6]]]).double()
    deltas = randn(2, 1, 4, 4, seed=seed)

    def anchors(o, d):
        values, grads = pair_runs.anchors(native, [o, logits, d, deltas[1]], 0.1)
        return values[0].sum() + values[1].sum(), list(grads)

    def of_boxes(x):
        value, _, grad = pair_runs.boxes(native, x, other, 5.0, 2.0)
        return value.sum(), [grad]

    def of_rows(name, x, y, first):
        value, grad = pair_runs.rows(native, name, x, y, first)
        return value.sum(), [grad]

    return {
        "soft_bce": ([s], lambda x: of_rows("soft_bce", x, t, 0)),
        "class_box_l2": ([s], lambda x: of_rows("class_box_l2", x, t, 4)),
        "box_loss": ([boxes], of_boxes),
        "rpn_distill": ([torch.zeros_like(logits), deltas[0]], anchors),
    }


def attention_losses(native, seed: int) -> dict[str, Loss]:
    """Outputs under random upstream gradients are one number."""
    query, key, value = (randn(2, n, 7, seed=seed + k) for k, n in enumerate((4, 4, 3)))
    up, up_mean, units = randn(2, 3, 7, seed=seed + 3), randn(2, 7, seed=seed + 4), randn(3, 4, seed=seed + 5)
    up_map = randn(2, 4, seed=seed + 6)
    maps = [randn(2, 5, 4, seed=seed + 10 + k) for k in range(4)]

    def masks(*inputs):
        out, mean, lse = attention_runs.attention_masks(native, *inputs)
        total = (out * up).sum() + (mean * up_mean).sum()
        return total, attention_runs.attention_masks_backward(native, up, up_mean, out, lse, inputs)

    def selection(fused, w):
        spatial, mean, *grads = attention_runs.selection_masks(native, fused, w, upstream=(up, up_map))
        return (spatial * up).sum() + (mean * up_map).sum(), grads

    def map_kl(q, k):
        factor = torch.linspace(0.5, 2, 10, dtype=torch.float64).reshape(2, 5)
        values, *grads = attention_runs.attention_map_kl(native, q, k, *maps[2:], factor)
        return (values * factor).sum(), grads

    return {
        "attention_masks": ([query, key, value], masks),
        "selection_masks": ([query, units], selection),
        "attention_map_kl": (maps[:2], map_kl),
    }


def check(losses: dict[str, Loss], seed: int) -> None:
    for name, (inputs, loss) in losses.items():
        directions = [randn(*x.shape, seed=seed + 100 + i) for i, x in enumerate(inputs)]
        moved = lambda k: [x + k * STEP * d for x, d in zip(inputs, directions, strict=True)]  # noqa: B023, E731
        _, grads = loss(*inputs)
        slope = sum(w * (loss(*moved(k))[0] - loss(*moved(-k))[0]) for k, w in SIXTH_ORDER.items()) / STEP
        along = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
        scale = sum(float(g.norm() * d.norm()) for g, d in zip(grads, directions, strict=True))
        assert abs(float(along - slope)) <= 1e-8 * scale + 1e-10, f"{name}: {float(along)}, {float(slope)}"


@pytest.mark.parametrize("classes", [2, 7, 33])
def test_row_losses(native, classes):
    check(row_losses(native, classes), seed=classes)


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("losses", [feature_losses, pair_losses, attention_losses])
def test_losses(native_module, losses, seed):
    native_module.set_device(order="shuffled", seed=seed)
    check(losses(native_module, seed), seed)

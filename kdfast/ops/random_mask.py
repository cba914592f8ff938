"""Multiplies features by a random mask that is never in memory: the masking of masked generative
distillation (MGD).

Yang et al., "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529, eqs. 1 and 4. The numbers are
those of Philox 4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), keyed by a
seed, counted by an offset and the mask's index; so forward, backward and every backend agree, and nothing is
drawn on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function

OVER = ("positions", "channels")
_WORD = 0xFFFFFFFF
_MULTIPLY = (0xD2511F53, 0xCD9E8D57)
_ADVANCE = (0x9E3779B9, 0xBB67AE85)


def philox(index: Tensor, state: Tensor) -> Tensor:
    """First 32-bit word of Philox4x32-10 as int64: counter (index, offset), key seed. state: int64 [seed,
    offset].
    """
    counter = [index & _WORD, (index >> 32) & _WORD, state[1] & _WORD, (state[1] >> 32) & _WORD]
    a, b, c, d = (x.expand_as(index) for x in counter)
    low, high = state[0] & _WORD, (state[0] >> 32) & _WORD
    for turn in range(10):
        if turn:
            low, high = (low + _ADVANCE[0]) & _WORD, (high + _ADVANCE[1]) & _WORD
        first, second = _wide_product(a, _MULTIPLY[0]), _wide_product(c, _MULTIPLY[1])
        a, b, c, d = second[1] ^ b ^ low, second[0], first[1] ^ d ^ high, first[0]
    return a


def _wide_product(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Low and high word of a product of 32-bit words; int64 wraps, and its bits are the right ones."""
    product = x * by
    return product & _WORD, (product >> 32) & _WORD


def random_mask_reference(x: Tensor, state: Tensor, ratio: float, over: str = "positions") -> Tensor:
    """The definition: x where the mask's number / 2^32 is at or above `ratio`, else 0."""
    shape = (
        (x.size(0), 1, *x.shape[2:])
        if over == "positions"
        else (x.size(0), x.size(1), *([1] * (x.dim() - 2)))
    )
    count = 1
    for n in shape:
        count *= n
    words = philox(torch.arange(count, device=x.device), state).reshape(shape)
    return torch.where(words >= _threshold(ratio), x, 0)


def _threshold(ratio: float) -> int:
    return int(ratio * 2**32)


class RandomMask(Function):
    """The op random_mask of a backend, over [B, C, P]. It is linear: the gradient goes through the op
    itself, with the same mask, drawn again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, state, kernels, threshold, over_channels):
        return backend.ops(kernels).random_mask(x, state, threshold, over_channels)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, state, *ctx.options = inputs
        ctx.save_for_backward(state)

    @staticmethod
    def backward(ctx, grad):
        return RandomMask.apply(grad, *ctx.saved_tensors, *ctx.options), *(None,) * 4


def random_mask(x: Tensor, ratio: float, *, over: str = "positions", state: Tensor | None = None) -> Tensor:
    """Sets a random share of a map's positions (or channels) to zero; nothing is rescaled.

    Args:
        x: [B, C, ...], any dtype and strides; gets the gradient.
        ratio: share that is dropped, in [0, 1].
        over: "positions" drops all channels of a position (detection, segmentation: ratios 0.65, 0.75),
            "channels" all positions of a channel (classification: 0.15).
        state: int64 [2] on x's device, seed and offset; drawn by torch.randint if None, so torch.manual_seed
            decides.

    Returns like x. Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check.floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must be [batch, channels, ...], got shape {tuple(x.shape)}")
    ratio = check_ratio(ratio)
    _check_features.option("over", over, OVER)
    if state is None:
        state = torch.randint(2**62, (2,), device=x.device)
    _check_features.integers("state", state)
    _check_features.shape("state", state, (2,), "seed and offset")
    _check.same_device("state", state, "x", x)
    kernels = backend.of(x, "random_mask")
    if kernels == "reference" or x.numel() == 0:
        return random_mask_reference(x, state.long(), ratio, over)
    state = state.long().contiguous()
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(-1)
    out = RandomMask.apply(flat, state, kernels, _threshold(ratio), over == "channels")
    return out.reshape(x.shape)


def check_ratio(ratio: object) -> float:
    """A share in [0, 1]: TypeError, ValueError."""
    value = _check.number("ratio", ratio)
    if not 0 <= value <= 1:
        raise ValueError(f"ratio must be in [0, 1], got {ratio}")
    return value


register_fake("random_mask", lambda x, state, threshold, over_channels: torch.empty_like(x))


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    state = torch.tensor([3, 5])
    return [torch.randn(2, 4, 6, generator=generator)], {"ratio": 0.5, "over": "channels", "state": state}

"""The cross-attention projector of ScaleKD: a student's map seen through the teacher's query positions.

Fan et al., "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", NeurIPS 2024, arXiv 2411.06786.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.ops import _check

NORMS = ("batch", "layer")


class CrossAttentionProjector(nn.Module):
    """CAP: a map [B, c, h, w] to tokens [B, L, C] of the teacher's shape.

        u = ReLU(norm(conv3x3(x))) + P,   q = ReLU(conv1x1(queries))
        y = LN(W_o softmax(scale d^-1/2 (W_q q) . (W_k u)) (W_v u)),   out = y + W_2 ReLU(W_1 y)

    There is no residual around the attention, and the one around the feed-forward part starts behind the
    norm, as in the authors' code.

    Args:
        in_channels: c of the student's map.
        dim: C of the teacher's tokens.
        in_size: (h, w) of the map, the size of its positional embedding P.
        query_size: (H_q, W_q), or the number of tokens L.
        num_heads: divides dim (the paper: 16 and 24 for Swin-L's last two stages).
        softmax_scale: gamma, on top of d ** -0.5.
        norm: "batch", or "layer" (LayerNorm over channels, for ConvNeXt students).
        learned_queries: keeps a table of queries; False if every call gives its own.
        ffn_ratio: width of the feed-forward part over dim.

    Raises TypeError or ValueError for bad options.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        in_size: Sequence[int],
        query_size: Sequence[int] | int,
        *,
        num_heads: int = 8,
        softmax_scale: float = 5.0,
        norm: str = "batch",
        learned_queries: bool = True,
        ffn_ratio: int = 4,
    ) -> None:
        super().__init__()
        self.in_channels = _check.whole_number("in_channels", in_channels, 1)
        self.dim = _check.whole_number("dim", dim, 1)
        self.in_size = _size("in_size", in_size)
        given = (query_size, 1) if isinstance(query_size, int) else query_size
        height, width = _size("query_size", given)
        self.num_queries = height * width
        self.num_heads = _check.whole_number("num_heads", num_heads, 1)
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim, got {num_heads} and {dim}")
        self.softmax_scale = _check.positive("softmax_scale", softmax_scale)
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        learned_queries = _check.flag("learned_queries", learned_queries)
        hidden = dim * _check.whole_number("ffn_ratio", ffn_ratio, 1)

        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(in_channels) if norm == "batch" else _ChannelNorm(in_channels)
        self.position = nn.Parameter(torch.empty(1, in_channels, *self.in_size))
        nn.init.trunc_normal_(self.position, std=0.02)
        table = nn.Parameter(torch.randn(self.num_queries, dim)) if learned_queries else None
        self.register_parameter("queries", table)
        self.query_embedding = nn.Linear(dim, dim)  # a 1 x 1 convolution of tokens
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(in_channels, dim)
        self.value = nn.Linear(in_channels, dim)
        self.out = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def extra_repr(self) -> str:
        return f"heads={self.num_heads}, softmax_scale={self.softmax_scale}, queries={self.num_queries}"

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """Tokens [B, L, C].

        Args:
            x: the student's map [B, c, h, w].
            queries: [B, L, C]; they win over the learned ones.

        Raises TypeError, ValueError or RuntimeError for bad input.
        """
        self._check_inputs(x, queries)
        seen = F.relu(self.norm(self.conv(x)), inplace=True) + self.position
        tokens = seen.flatten(2).mT  # a view: the projections below read it as it lies
        asked = (self.queries if queries is None else queries).to(self.query.weight.dtype)
        query = self.query(F.relu(self.query_embedding(asked)))
        if queries is None:
            query = query.expand(x.size(0), -1, -1)
        scale = self.softmax_scale * (self.dim // self.num_heads) ** -0.5
        mixed = KF.cross_attention(
            query, self.key(tokens), self.value(tokens), num_heads=self.num_heads, scale=scale
        )
        y = self.out_norm(self.out(mixed.to(self.out.weight.dtype)))
        return y + self.ffn(y)

    def _check_inputs(self, x: object, queries: object) -> None:
        _check.floating("x", x)
        wanted = (self.in_channels, *self.in_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != wanted:
            raise ValueError(f"x must be [batch, {', '.join(map(str, wanted))}], got {tuple(x.shape)}")
        _check.same_device("x", x, "position", self.position)
        if queries is None:
            if self.queries is None:
                raise ValueError("queries must be given: this projector was built with learned_queries=False")
            return
        _check.floating("queries", queries)
        shape = (x.size(0), self.num_queries, self.dim)
        if tuple(queries.shape) != shape:
            raise ValueError(f"queries must be {shape}, got {tuple(queries.shape)}")
        _check.same_device("queries", queries, "x", x)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _size(name: str, size: object) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"{name} must be (height, width), got {size!r}")
    return _check.whole_number(name, size[0], 1), _check.whole_number(name, size[1], 1)

"""Interchangeable encoders of a prepared sequence: z [B, T, F] -> h [B, width].

Recurrent ones read out the last step; their input weights start by Xavier's rule, recurrent ones
orthogonal, biases 0, as in the paper's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class MLPEncoder(nn.Sequential):
    """Two layers on all cells at once; the number of steps is fixed."""

    def __init__(self, features: int, steps: int, hidden: int, layers: int, dropout: float) -> None:
        blocks: list[nn.Module] = [nn.Flatten()]
        for i in range(max(layers, 1)):
            blocks += [
                nn.Linear(features * steps if i == 0 else hidden, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
        super().__init__(*blocks)
        self.width = hidden


class CNNEncoder(nn.Module):
    """Convolutions over three steps, then the largest response in time beside the last one."""

    def __init__(self, features: int, steps: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i in range(max(layers, 1)):
            blocks += [
                nn.Conv1d(features if i == 0 else hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
        self.blocks = nn.Sequential(*blocks)
        self.width = 2 * hidden

    def forward(self, z: Tensor) -> Tensor:
        h = self.blocks(z.transpose(1, 2))
        return torch.cat([h.amax(-1), h[:, :, -1]], -1)


class RecurrentEncoder(nn.Module):
    """torch's RNN, GRU or LSTM, one or both directions."""

    def __init__(
        self,
        features: int,
        steps: int,
        hidden: int,
        layers: int,
        dropout: float,
        *,
        kind: Literal["rnn", "gru", "lstm"] = "lstm",
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        cell = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}[kind]
        between = dropout if layers > 1 else 0.0  # torch drops out between layers only
        self.cell = cell(
            features, hidden, layers, batch_first=True, dropout=between, bidirectional=bidirectional
        )
        for name, parameter in self.cell.named_parameters():
            if "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            elif "weight_hh" in name:
                nn.init.orthogonal_(parameter)
            else:
                nn.init.zeros_(parameter)
        self.width = hidden * (1 + bidirectional)

    def forward(self, z: Tensor) -> Tensor:
        return self.cell(z)[0][:, -1]


class CausalBlock(nn.Module):
    """A dilated convolution over this step and earlier ones, with a residual path: [B, C, T] -> [B, hidden,
    T].
    """

    def __init__(self, channels: int, hidden: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.back = 2 * dilation
        self.convolution = nn.Conv1d(channels, hidden, 3, dilation=dilation)
        self.skip = nn.Conv1d(channels, hidden, 1) if channels != hidden else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        past = nn.functional.pad(z, (self.back, 0))
        return self.skip(z) + self.dropout(torch.relu(self.convolution(past)))


class TCNEncoder(nn.Module):
    """Causal blocks with dilations 1, 2, 4, ...; the last step sees them all."""

    def __init__(self, features: int, steps: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        widths = [features] + [hidden] * max(layers, 1)
        blocks = [
            CausalBlock(a, b, 2**i, dropout) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        self.blocks = nn.Sequential(*blocks)
        self.width = hidden

    def forward(self, z: Tensor) -> Tensor:
        return self.blocks(z.transpose(1, 2))[:, :, -1]


class TransformerEncoder(nn.Module):
    """torch's Transformer layers over learned positions; the last step, which attends to all, is read out."""

    def __init__(self, features: int, steps: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.inputs = nn.Linear(features, hidden)
        self.position = nn.Parameter(0.02 * torch.randn(steps, hidden))
        heads = next(h for h in (4, 2, 1) if hidden % h == 0)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, max(layers, 1), enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden)
        self.width = hidden

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.layers(self.inputs(z) + self.position)[:, -1])


def _recurrent(kind: str, bidirectional: bool = False) -> Callable[..., nn.Module]:
    def build(*sizes: float) -> RecurrentEncoder:
        return RecurrentEncoder(*sizes, kind=kind, bidirectional=bidirectional)

    return build


ENCODERS: dict[
    str, Callable[..., nn.Module]
] = {  # name -> (features, steps, hidden, layers, dropout) -> module
    "mlp": MLPEncoder,
    "cnn": CNNEncoder,
    "rnn": _recurrent("rnn"),
    "gru": _recurrent("gru"),
    "lstm": _recurrent("lstm"),
    "bilstm": _recurrent("lstm", bidirectional=True),
    "tcn": TCNEncoder,
    "transformer": TransformerEncoder,
}

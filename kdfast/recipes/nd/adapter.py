"""The student's embedding in the teacher's width, for the ND term alone."""

from __future__ import annotations

from torch import Tensor, nn


class EmbeddingAdapter(nn.Module):
    """Linear(Dropout(BatchNorm(s))): [B, student_dim] -> [B, teacher_dim].

    The official code's EmbTrans: needed where the widths differ, used in training only; the logits still come
    from the student's own embedding. Weights N(0, 0.01), biases 0.
    """

    def __init__(self, student_dim: int, teacher_dim: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(student_dim), nn.Dropout(dropout)
        self.linear = nn.Linear(student_dim, teacher_dim)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(self.dropout(self.norm(embedding)))

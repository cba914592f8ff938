"""Multiple imputation by chained equations (MICE; van Buuren and Groothuis-Oudshoorn, 2011).

Each column with gaps is predicted from all others by a ridge regression, column after column, for `ROUNDS`
rounds; scikit-learn's IterativeImputer learns the equations. They are linear, so a network carries
them as two buffers and a student with them still exports. The mean of each prediction is filled in, not a
draw: the same person must get the same risk twice.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import Ridge
from torch import Tensor, nn

ROUNDS = 10  # the paper's code: max_iter of its imputer


class ChainedImputer(IterativeImputer):
    """IterativeImputer for standardised columns. Columns without any value stay, filled with 0; columns
    without gaps get no equation, and their median if they have gaps later.
    """

    def __init__(self) -> None:
        super().__init__(
            Ridge(alpha=1.0),  # the default, BayesianRidge, takes twenty times as long
            max_iter=ROUNDS,
            tol=0.0,
            initial_strategy="median",
            keep_empty_features=True,
            skip_complete=True,
            random_state=0,
        )

    def fit_transform(self, X: np.ndarray, y: object = None, **params: object) -> np.ndarray:
        """As the parent's; `tol` 0 runs all rounds, which is no failure to converge."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().fit_transform(X, y, **params)


class ChainedEquations(nn.Module):
    """A fitted ChainedImputer as a module: z [B, T, F] with NaN -> z without."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("initial", torch.zeros(features))
        self.register_buffer("slopes", torch.zeros(ROUNDS, features, features))  # [round, filled, read]
        self.register_buffer("offsets", torch.zeros(ROUNDS, features))

    @torch.no_grad()
    def fit(self, z: Tensor) -> ChainedEquations:
        """Learn from rows [n, F]. A column without gaps in them is filled with its median later."""
        imputer = ChainedImputer()
        imputer.fit(z.double().numpy())
        self.initial.copy_(torch.from_numpy(imputer.initial_imputer_.statistics_))
        self.slopes.zero_()
        self.offsets.copy_(self.initial.expand(ROUNDS, -1))
        seen = [0] * len(self.initial)  # equations of each column so far: the round of the next one
        for column, others, regression in imputer.imputation_sequence_:
            turn = seen[column]
            self.slopes[turn, column, torch.from_numpy(others)] = torch.from_numpy(regression.coef_).float()
            self.offsets[turn, column] = float(regression.intercept_)
            seen[column] += 1
        return self

    def forward(self, z: Tensor) -> Tensor:
        gaps = torch.isnan(z)
        columns = list(torch.where(gaps, self.initial, z).unbind(-1))
        for turn in range(ROUNDS):
            for i in range(len(columns)):
                filled = torch.stack(columns, -1) @ self.slopes[turn, i] + self.offsets[turn, i]
                columns[i] = torch.where(gaps[..., i], filled, columns[i])
        return torch.stack(columns, -1)

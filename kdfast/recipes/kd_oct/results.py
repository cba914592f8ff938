"""What a run found: test scores by network and fold, first networks, costs."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

import kdfast

METRICS = ("accuracy", "sensitivity", "specificity", "auc", "ece")
ORDER = ("teacher", "teacher, best", "teacher, swa", "teacher, 5 views", "student", "distilled")


@dataclass
class Results:
    """folds: their digest. folds_of: network -> test scores by fold (and seed). chosen: best or swa."""

    folds: str
    folds_of: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    distillers: dict[str, kdfast.Distiller] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Networks in the order of the tables."""
        return [name for name in ORDER if name in self.folds_of]

    def csv(self) -> str:
        """cv_results.csv: a line for each network and fold."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "run", *METRICS])
        for name in self.names():
            for number, found in enumerate(self.folds_of[name]):
                writer.writerow([name, number, *(f"{found[metric]:.6f}" for metric in METRICS)])
        return file.getvalue()

    def pooled(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Out-of-fold probabilities [N, K] and labels [N] of all folds (and seeds)."""
        found = self.folds_of[name]
        keys = ("probabilities", "labels")
        return tuple(np.concatenate([np.array(each[key]) for each in found]) for key in keys)

"""The student: standardized features into a KAN, trained on the labels and on what the teacher says."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import R2Score
from torchmetrics.classification import MulticlassAccuracy

import kdfast.functional as KF
from kdfast.nn import KAN
from kdfast.recipes.common.classify import Optimize
from kdfast.recipes.common.means import Means

Batch = tuple[Tensor, Tensor, Tensor]  # features [B, d], teacher's outputs [B, C], target [B]


class Standardize(nn.Module):
    """x [B, d] -> (x - mean) / scale; constant features come out as 0."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation of the rows x [n, d]."""
        spread = x.double().std(0, correction=0)
        self.mean.copy_(x.double().mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def student_network(features: int, hidden: int, outputs: int, *, grid_size: int = 5) -> nn.Sequential:
    """Features [B, d] as they are measured -> outputs [B, C]: Standardize, then KAN [d, hidden, C]."""
    return nn.Sequential(
        Standardize(features), KAN([features, hidden, outputs], grid_size=grid_size, extrapolation="linear")
    )


def fit_inputs(network: nn.Sequential, x: Tensor) -> None:
    """Settle the scaling, and the first layer's knots at quantiles, by the training rows x [n, d]."""
    network[0].fit(x)
    network[1][0].update_grid(network[0](x))


class TableStudent(LightningModule):
    """A network under the loss of this package's first lines; alpha = 0 is the student alone.

    Logs "loss", "terms/task", "terms/kl" or "terms/imitation", and "val_accuracy" or "val_r2".
    """

    def __init__(
        self,
        network: nn.Module,
        task: str,
        outputs: int,
        optimize: Optimize,
        *,
        alpha: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.network, self.task, self.alpha, self.temperature = network, task, alpha, temperature
        self._optimize = optimize
        self._means = Means()
        labels = task == "classification"
        self.metric_name = "val_accuracy" if labels else "val_r2"
        self.metric = MulticlassAccuracy(outputs, average="micro") if labels else R2Score()

    def timed_parts(self) -> dict[str, nn.Module]:
        """What the step clock times."""
        return {"student": self.network}

    def losses(self, outputs: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """-> loss, its terms by name."""
        if self.task == "classification":
            task, imitation = KF.cross_entropy_kl_div(outputs, teacher, target, temperature=self.temperature)
            name = "kl"
        else:
            task, imitation = F.mse_loss(outputs[:, 0], target), F.mse_loss(outputs, teacher)
            name = "imitation"
        if self.alpha == 0:
            return task, {"task": task}
        return (1 - self.alpha) * task + self.alpha * imitation, {"task": task, name: imitation}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        x, teacher, target = batch
        loss, terms = self.losses(self.network(x), teacher, target)
        found = {"loss": loss.detach()} | {f"terms/{name}": term.detach() for name, term in terms.items()}
        self._means.add(found, len(target))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_last_batch:
            self.log_dict(self._means.take(), on_step=False, on_epoch=True, sync_dist=True)

    def validation_step(self, batch: Batch, _: int) -> None:
        x, _, target = batch
        outputs = self.network(x)
        self.metric.update(outputs if self.task == "classification" else outputs[:, 0], target)
        self.log(self.metric_name, self.metric, on_step=False, on_epoch=True, batch_size=len(target))

    def configure_optimizers(self) -> dict[str, Any]:
        return self._optimize(list(self.parameters()), int(self.trainer.estimated_stepping_batches))

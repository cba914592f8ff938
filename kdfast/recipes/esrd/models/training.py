"""Training any risk network with Lightning: labels, class weights or focal loss, and a teacher's logits if
there are any.

    loss = (1 - alpha) * task(z, y) + alpha * T^2 KL(teacher / T || student / T)

task is cross-entropy with the positives weighed by n_neg / n_pos, plain cross-entropy, or focal loss. Every
person has a weight (censoring). A binary problem has the two logits 0 and z: kdfast's fused losses on
logits serve it as they are.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import TensorDataset

import kdfast.functional as KF
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.seeds import derive, seed_all


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained. Batch, rate, clip and dropout follow the paper's code, which trains for up to
    500 epochs and stops early with patience 7. Here `patience` 0 trains all epochs, whose number can be
    chosen like any other setting, by inner cross-validation.
    """

    epochs: int = 30
    patience: int = 0  # epochs without a fall of the validation loss; 0: no early stop
    lr: float = 1e-3
    batch_size: int = 32
    weight_decay: float = 1e-4
    clip: float = 1.0
    imbalance: Literal["weight", "focal", "none"] = "weight"
    imputation: Literal["median", "mice"] = "median"
    gamma: float = 2.0
    alpha: float = 0.0  # share of the teacher
    temperature: float = 2.0


def two_logits(z: Tensor) -> Tensor:
    """[B] logit of class 1 against class 0 -> [B, 2]."""
    return torch.stack([torch.zeros_like(z), z], -1)


class RiskTraining(LightningModule):
    """Batches are (x [B, T, F], y [B], weight [B], teacher logit [B])."""

    def __init__(self, network: nn.Module, settings: Settings, positive_weight: float) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.positive_weight = positive_weight

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        x, y, weight, teacher = batch
        terms = self._terms(self.network(x), y, weight, teacher)
        share = self.settings.alpha
        loss = (1 - share) * terms["task"] + share * terms["kl"] if "kl" in terms else terms["task"]
        named = {"loss": loss} | {f"terms/{name}": value for name, value in terms.items()}
        detached = {name: value.detach() for name, value in named.items()}
        self.log_dict(detached, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def _terms(self, z: Tensor, y: Tensor, weight: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Task and, with a teacher, KL: means over the people's weights. Plain cross-entropy and KL are one
        pass.
        """
        s, pair = self.settings, (two_logits(z), two_logits(teacher))
        options = {"temperature": s.temperature, "mask": weight, "reduction": "mean"}
        if s.alpha and s.imbalance == "none":
            ce, kl = KF.cross_entropy_kl_div(*pair, y, **options)
            return {"task": ce, "kl": kl}
        terms = {"task": (self._task(z, y) * weight).sum() / weight.sum()}
        return terms | ({"kl": KF.kl_div(*pair, **options)} if s.alpha else {})

    def _task(self, z: Tensor, y: Tensor) -> Tensor:
        """[B], each row's own."""
        if self.settings.imbalance == "focal":
            return KF.focal_loss(two_logits(z), y, gamma=self.settings.gamma, reduction="none")
        weight = z.new_tensor(self.positive_weight) if self.settings.imbalance == "weight" else None
        return binary_cross_entropy_with_logits(z, y.to(z.dtype), pos_weight=weight, reduction="none")

    def validation_step(self, batch: tuple[Tensor, ...], _: int) -> None:
        x, y, weight, _teacher = batch
        loss = (self._task(self.network(x), y) * weight).mean()
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))

    def configure_optimizers(self) -> dict[str, Any]:
        s = self.settings
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=s.lr, weight_decay=s.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def samples(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, teacher: np.ndarray | None = None
) -> TensorDataset:
    """Arrays as the dataset `RiskTraining` reads; weights 1 and teacher 0 where there are none."""
    weight = np.ones(len(y)) if weight is None else weight
    teacher = np.zeros(len(y)) if teacher is None else teacher
    columns = [torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in (x, weight, teacher)]
    return TensorDataset(columns[0], torch.from_numpy(np.asarray(y, dtype=np.int64)), *columns[1:])


def positive_weight(y: np.ndarray, weight: np.ndarray | None = None) -> float:
    """n_neg / n_pos of the training labels."""
    weight = np.ones(len(y)) if weight is None else weight
    positives = float(weight[y == 1].sum())
    return float(weight[y == 0].sum()) / positives if positives else 1.0


class BestWeights(EarlyStopping):
    """EarlyStopping on the validation loss that also goes back to the weights of the best epoch."""

    def __init__(self, patience: int) -> None:
        super().__init__("val_loss", patience=patience, check_on_train_epoch_end=False)
        self.best: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.wait_count == 0:
            self.best = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.best:  # none if the loss was never finite
            pl_module.load_state_dict(self.best)


def train_quietly(
    module: RiskTraining, data: TensorDataset, seed: int, check: TensorDataset | None = None
) -> RiskTraining:
    """Train in memory, without files or output: the many fits of cross-validation. The same seed gives the
    same bits. With `check`, stop early by the loss there.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    loaders = EpochData(data, check or data, batch_size=module.settings.batch_size)
    loaders.begin(derive(seed, "fit"), 0)
    seed_all(seed, "fit")
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=module.settings.epochs,
        gradient_clip_val=module.settings.clip,
        limit_val_batches=None if check else 0,
        callbacks=[BestWeights(module.settings.patience)] if check else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|LeafSpec).*")
        trainer.fit(module, datamodule=loaders)
    return module.eval()

"""Which epoch's network is kept, when training stops, and the average of the last epochs' weights.

All of it is in the module's state, so that a resumed stage goes on as if it had not stopped. The published
code averages weights (SWA) and then loads the best epoch over the average; here both are kept and tested.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torchmetrics import MeanMetric

from kdfast.recipes.common.classify import Batch, Distilled, Supervised
from kdfast.recipes.common.replay import Replayed


class Selection(nn.Module):
    """The best network so far, and the average of those from an epoch on.

    Args:
        network: its copies are made at once, so that a state dict always has them.
        smaller: whether a smaller value is better; equal values are not better.
        swa_start: first epoch (from 0) that is averaged; None for no average.
    """

    score: Tensor
    waited: Tensor

    def __init__(self, network: nn.Module, *, smaller: bool, swa_start: int | None = None) -> None:
        super().__init__()
        self.best = copy.deepcopy(network).requires_grad_(False)
        self.average = None if swa_start is None else AveragedModel(network).requires_grad_(False)
        self.smaller, self.swa_start = smaller, swa_start
        self.register_buffer("score", torch.tensor(math.inf if smaller else -math.inf))
        self.register_buffer("waited", torch.tensor(0))

    @torch.no_grad()
    def update(self, network: nn.Module, value: Tensor, epoch: int) -> None:
        """The network after epoch `epoch`, whose validation gave `value`."""
        better = value < self.score if self.smaller else value > self.score
        if better:
            self.best.load_state_dict(network.state_dict())
            self.score.copy_(value)
            self.waited.zero_()
        else:
            self.waited += 1
        if self.average is not None and epoch >= self.swa_start:
            self.average.update_parameters(network)

    def averaged(self, batches: Iterable[Any], device: str) -> nn.Module | None:
        """The average with its batch normalisation measured on `batches`; None if no epoch was averaged.

        Networks without batch normalisation (ConvNeXt) need no batches and take none.
        """
        if self.average is None or not int(self.average.n_averaged):
            return None
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.average.modules()):
            update_bn(batches, self.average.to(device), device=device)
        return self.average.module.cpu().eval()


class _Selecting(LightningModule):
    """Validates by a loss as well as by accuracy, keeps the best epoch, stops when none has been better."""

    def watch(
        self,
        network: nn.Module,
        *,
        loss: nn.Module,
        by_loss: bool,
        patience: int,
        swa_start: int | None = None,
    ) -> None:
        """Set up, after construction.

        Args:
            network: what is validated and kept.
            loss: of validation. by_loss: smaller loss is better, else higher accuracy.
            patience: epochs without a better one after which training stops; 0 for never.
        """
        self.selection = Selection(network, smaller=by_loss, swa_start=swa_start)
        self.val_loss, self._val_loss = MeanMetric(), loss
        self._by_loss, self._patience = by_loss, patience
        self._watched = [network]  # not registered again

    def validation_step(self, batch: Batch, _: int) -> None:
        images, target = batch
        logits = self.predict(images)
        self.val_accuracy.update(logits, target)
        self.val_loss.update(self._val_loss(logits, target), len(target))

    def on_validation_epoch_end(self) -> None:
        loss, accuracy = self.val_loss.compute(), self.val_accuracy.compute()
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, sync_dist=True)  # equal on all by now
        self.selection.update(self._watched[0], loss if self._by_loss else accuracy, self.current_epoch)
        self.val_loss.reset()
        self.val_accuracy.reset()
        self._stop_if_done()

    def on_train_start(self) -> None:
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._patience and int(self.selection.waited) >= self._patience:
            self.trainer.should_stop = True


class SelectingSupervised(_Selecting, Supervised):
    """A network on labels alone."""


class SelectingDistilled(_Selecting, Distilled):
    """A student under a Distiller."""


class SelectingReplayed(_Selecting, Replayed):
    """The same with the teacher's outputs known."""

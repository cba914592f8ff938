"""The losses and layers as modules, drop-in beside torch.nn."""

from kdfast.nn.losses import KLDivLoss

__all__ = ["KLDivLoss"]

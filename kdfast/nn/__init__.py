"""The losses and layers as modules, drop-in beside torch.nn."""

from kdfast.nn.losses import JSDivLoss, KLDivLoss, ReverseKLDivLoss, SkewKLDivLoss, TVDistLoss

__all__ = ["JSDivLoss", "KLDivLoss", "ReverseKLDivLoss", "SkewKLDivLoss", "TVDistLoss"]

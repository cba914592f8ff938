"""The losses and layers as modules, drop-in beside torch.nn."""

from kdfast.nn.class_means import ClassMeans
from kdfast.nn.feature_losses import (
    AttentionTransferLoss,
    BoxLoss,
    BoxWeightedMSELoss,
    ChannelWiseKLLoss,
    CosineDistanceLoss,
    DiceDiversityLoss,
    FGDLoss,
    HCLLoss,
    HintMSELoss,
    MaskedMSELoss,
    MGDLoss,
    NDLoss,
    NormalizedMSELoss,
    RKDLoss,
    SimilarityPreservingLoss,
)
from kdfast.nn.kan import KAN, KANConv2d, KANLinear
from kdfast.nn.losses import JSDivLoss, KLDivLoss, ReverseKLDivLoss, SkewKLDivLoss, TVDistLoss

__all__ = [
    "AttentionTransferLoss",
    "BoxLoss",
    "BoxWeightedMSELoss",
    "ChannelWiseKLLoss",
    "ClassMeans",
    "CosineDistanceLoss",
    "DiceDiversityLoss",
    "FGDLoss",
    "HCLLoss",
    "HintMSELoss",
    "JSDivLoss",
    "KAN",
    "KANConv2d",
    "KANLinear",
    "KLDivLoss",
    "MGDLoss",
    "MaskedMSELoss",
    "NDLoss",
    "NormalizedMSELoss",
    "RKDLoss",
    "ReverseKLDivLoss",
    "SimilarityPreservingLoss",
    "SkewKLDivLoss",
    "TVDistLoss",
]

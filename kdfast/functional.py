"""The fused losses as functions, drop-in beside torch.nn.functional: `import kdfast.functional as KF`."""

from kdfast.ops.attention_map_kl import attention_map_kl
from kdfast.ops.attention_masks import attention_masks
from kdfast.ops.attention_transfer import attention_transfer
from kdfast.ops.box_loss import box_loss
from kdfast.ops.box_weighted_mse import box_weighted_mse
from kdfast.ops.box_weights import box_weights
from kdfast.ops.bspline_basis import bspline_basis
from kdfast.ops.channel_wise_kl import channel_wise_kl
from kdfast.ops.class_box_l2 import class_box_l2
from kdfast.ops.class_sums import class_sums
from kdfast.ops.cosine_distance import cosine_distance
from kdfast.ops.cross_attention import cross_attention
from kdfast.ops.cross_entropy_kl_div import cross_entropy_kl_div
from kdfast.ops.dice_diversity import dice_diversity
from kdfast.ops.dist_loss import dist_loss
from kdfast.ops.dkd_loss import dkd_loss
from kdfast.ops.fgd_loss import fgd_loss
from kdfast.ops.focal_loss import focal_loss
from kdfast.ops.hcl_loss import hcl_loss
from kdfast.ops.hint_mse import hint_mse
from kdfast.ops.js_div import js_div
from kdfast.ops.kan_edge_stats import kan_edge_stats
from kdfast.ops.kan_linear import kan_linear
from kdfast.ops.kl_div import kl_div
from kdfast.ops.linear_kl_div import linear_kl_div
from kdfast.ops.masked_mse import masked_mse
from kdfast.ops.nd_loss import nd_loss
from kdfast.ops.nonlocal_attention import nonlocal_attention
from kdfast.ops.normalized_mse import normalized_mse
from kdfast.ops.random_mask import random_mask
from kdfast.ops.reverse_kl_div import reverse_kl_div
from kdfast.ops.rkd_angle import rkd_angle
from kdfast.ops.rkd_distance import rkd_distance
from kdfast.ops.rpn_distill import rpn_distill
from kdfast.ops.selection_masks import selection_masks
from kdfast.ops.similarity_preserving import similarity_preserving
from kdfast.ops.skew_kl_div import skew_kl_div
from kdfast.ops.soft_bce import soft_bce
from kdfast.ops.soft_cross_entropy import soft_cross_entropy
from kdfast.ops.topk_kl_div import topk_kl_div
from kdfast.ops.tv_dist import tv_dist
from kdfast.ops.unbiased_cross_entropy import unbiased_cross_entropy
from kdfast.ops.unbiased_kl_div import unbiased_kl_div
from kdfast.ops.weighted_mse import weighted_mse

__all__ = [
    "attention_map_kl",
    "attention_masks",
    "attention_transfer",
    "box_loss",
    "box_weighted_mse",
    "box_weights",
    "bspline_basis",
    "channel_wise_kl",
    "class_box_l2",
    "class_sums",
    "cosine_distance",
    "cross_attention",
    "cross_entropy_kl_div",
    "dice_diversity",
    "dist_loss",
    "dkd_loss",
    "fgd_loss",
    "focal_loss",
    "hcl_loss",
    "hint_mse",
    "js_div",
    "kan_edge_stats",
    "kan_linear",
    "kl_div",
    "linear_kl_div",
    "masked_mse",
    "nd_loss",
    "nonlocal_attention",
    "normalized_mse",
    "random_mask",
    "reverse_kl_div",
    "rkd_angle",
    "rkd_distance",
    "rpn_distill",
    "selection_masks",
    "similarity_preserving",
    "skew_kl_div",
    "soft_bce",
    "soft_cross_entropy",
    "topk_kl_div",
    "tv_dist",
    "unbiased_cross_entropy",
    "unbiased_kl_div",
    "weighted_mse",
]

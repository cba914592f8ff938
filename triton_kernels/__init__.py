"""The Triton kernels of kdfast, registered as torch.ops.kdfast_triton.X with the schemas of
torch.ops.kdfast.X.

Importing needs Triton, but no GPU.
"""

if __name__ != "kdfast.triton_kernels":
    raise ImportError(
        f"this folder is kdfast.triton_kernels, not {__name__}: import it from installed kdfast"
    )

from . import (
    attention_masks,
    bspline_basis,
    cross_entropy_kl_div,
    js_div,
    kan_edge_stats,
    kan_linear,
    kl_div,
    nd_loss,
    normalized_mse,
    reverse_kl_div,
    scale_grad,
    selection_masks,
    skew_kl_div,
    tv_dist,
    weighted_mse,
)

__all__ = [
    "attention_masks",
    "bspline_basis",
    "cross_entropy_kl_div",
    "js_div",
    "kan_edge_stats",
    "kan_linear",
    "kl_div",
    "nd_loss",
    "normalized_mse",
    "reverse_kl_div",
    "scale_grad",
    "selection_masks",
    "skew_kl_div",
    "tv_dist",
    "weighted_mse",
]

"""The fused losses as functions, drop-in beside torch.nn.functional: `import kdfast.functional as KF`."""

from kdfast.ops.kl_div import kl_div

__all__ = ["kl_div"]

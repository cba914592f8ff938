"""The fused losses as functions, drop-in beside torch.nn.functional: `import kdfast.functional as KF`."""

from kdfast.ops.js_div import js_div
from kdfast.ops.kl_div import kl_div
from kdfast.ops.reverse_kl_div import reverse_kl_div
from kdfast.ops.skew_kl_div import skew_kl_div
from kdfast.ops.tv_dist import tv_dist

__all__ = ["js_div", "kl_div", "reverse_kl_div", "skew_kl_div", "tv_dist"]

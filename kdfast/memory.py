"""CPU memory that kdfast keeps for the next step.

Outputs of 256 KB and more (gradients of logits, work memory) live in blocks that are kept when their tensors
are gone: a fresh block costs more than the arithmetic that fills it, because the operating system clears its
pages at their first touch. At most `KDFAST_CPU_CACHE_MB` (512) lie idle. CUDA memory is torch's, as ever.
"""

import torch

from kdfast import backend

_HERE = backend.reason_against("native", "cpu") is None

__all__ = ["cached_bytes", "empty_cache", "set_cache_limit"]


def cached_bytes() -> int:
    """Bytes that lie idle now."""
    return torch.ops.kdfast.cached_bytes() if _HERE else 0


def empty_cache() -> None:
    """Gives every idle block back to the operating system."""
    if _HERE:
        torch.ops.kdfast.empty_cache()


def set_cache_limit(limit: int) -> int:
    """Lets at most `limit` bytes lie idle from now on; 0 allocates every output through torch.

    Returns the limit before. Raises ValueError if `limit` is negative.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise ValueError(f"limit must be a whole number of bytes, 0 or more, got {limit!r}")
    return torch.ops.kdfast.set_cache_limit(limit) if _HERE else 0

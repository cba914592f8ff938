"""Memory for time in plain PyTorch: a part of a definition whose tensors the backward pass makes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def made_again(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """function(*arguments, **keywords) without keeping its tensors, except under torch.func, which has no
    hooks for that."""
    if torch._C._functorch.maybe_current_level() is not None:
        return function(*arguments, **keywords)
    return checkpoint(function, *arguments, **keywords, use_reentrant=False, preserve_rng_state=False)

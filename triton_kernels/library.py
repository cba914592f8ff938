"""Registration: every op of this package is torch.ops.kdfast_triton.X, with the schema of torch.ops.kdfast.X.

So torch.compile and torch.export see opaque ops with fake (meta) kernels. CPU tensors are served only by
Triton's interpreter, that is when TRITON_INTERPRET=1 was set before Triton was imported.
"""

from collections.abc import Callable

import torch

from .common import INTERPRETED

library = torch.library.Library("kdfast_triton", "FRAGMENT")


def define(schema: str, implement: Callable, fake: Callable) -> None:
    """Defines the op of `schema` ("name(...) -> ..."), its kernel and its fake kernel."""
    name = schema.split("(", 1)[0]
    library.define(schema)
    library.impl(name, implement, "CUDA")
    if INTERPRETED.value:
        library.impl(name, implement, "CPU")
    torch.library.register_fake(f"kdfast_triton::{name}", fake, lib=library)

"""The one place that starts kernels."""

import torch
from torch import Tensor


def launch(kernel, programs: int, arguments: tuple = (), **named) -> None:
    """Runs `programs` programs of a kernel on the current stream of its first tensor's device; 0 is no
    launch.

    A kernel's arguments come in order, or by name; among the named are constants, num_warps and num_stages.
    """
    if programs == 0:
        return
    device = next(x.device for x in (*arguments, *named.values()) if isinstance(x, Tensor))
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **named)
    else:
        kernel[(programs,)](*arguments, **named)

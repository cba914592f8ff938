"""The one place that starts kernels."""

import torch


def launch(kernel, programs: int, arguments: tuple, **constants) -> None:
    """Runs `programs` programs of a kernel on the current stream of the device of arguments[0]; 0 is no
    launch.

    `arguments` are the kernel's, in order; `constants` its constexpr parameters, num_warps and num_stages.
    """
    if programs == 0:
        return
    device = arguments[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **constants)
    else:
        kernel[(programs,)](*arguments, **constants)

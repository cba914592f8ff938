"""The one place that starts kernels."""

import torch


def launch(kernel, programs: int, *, device: torch.device, **arguments) -> None:
    """Runs `programs` programs of a kernel on the current stream of `device`; 0 is no launch.

    `arguments` are the kernel's, by name, with num_warps and num_stages.
    """
    if programs == 0:
        return
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](**arguments)
    else:
        kernel[(programs,)](**arguments)

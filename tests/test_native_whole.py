"""Every CUDA kernel runs on the emulated device. This file sorts behind the tests that run them."""

from pathlib import Path

from native import kernels


def test_every_kernel_has_run(native_module, request):
    """Every __global__ function of csrc/cuda has run to its end, where all native tests were asked for."""
    files = {p.name for p in Path(__file__).parent.glob("test_native_*.py")}
    if not files <= {item.path.name for item in request.session.items}:
        return
    ran = {name.split("<")[0].split("::")[-1] for name in native_module.kernels_run()}
    assert set(kernels.KERNELS) <= ran

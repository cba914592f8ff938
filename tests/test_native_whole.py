"""Every CUDA kernel runs on the emulated device. This file sorts behind the tests that run them."""

from pathlib import Path

from native import kernels


def short(name: str) -> str:
    """kd::forward<3, float> -> forward"""
    return name.split("<")[0].split("::")[-1]


def test_every_kernel_has_run(native_module, request):
    """Every __global__ function of csrc/cuda has run to its end, where all native tests were asked for."""
    files = {p.name for p in Path(__file__).parent.glob("test_native_*.py")}
    if not files <= {item.path.name for item in request.session.items}:
        return
    ran = {short(name) for name in native_module.kernels_run()}
    assert set(kernels.KERNELS) <= ran


def test_no_block_is_larger_than_its_launch_bounds(native_module):
    """A device refuses such a launch; here __launch_bounds__ is read from the source."""
    bounds = kernels.launch_bounds()
    for name, threads in native_module.kernels_run().items():
        if short(name) in bounds:  # else a planted one
            assert threads <= bounds[short(name)]["double" if "double" in name else "float"], name

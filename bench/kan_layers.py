"""What the KAN benchmarks share: sizes, inputs, and the layer as others compute it."""

import harness
import torch
import torch.nn.functional as F
from harness import Provider
from torch import Tensor

# samples, inputs, outputs, intervals of the grid; degree 3.
SIZES = [
    (1024, 64, 64, 2),
    (1024, 64, 64, 5),
    (4096, 256, 256, 2),
    (4096, 256, 256, 5),
    (1024, 1024, 1024, 5),
    (16384, 128, 64, 32),
    (256, 784, 64, 5),
]


def label(size: tuple[int, ...]) -> str:
    samples, features, out, intervals = size
    return f"{samples}x{features}-{out}-G{intervals}"


def knots(intervals: int, degree: int = 3) -> Tensor:
    """The uniform grid of [-1, 1], extended by `degree` intervals on each side."""
    return (torch.arange(-degree, intervals + degree + 1) * (2 / intervals) - 1).float()


def inputs(size: tuple[int, ...]) -> tuple[Tensor, ...]:
    """x, coef, scale, base_weight, grid and the upstream gradient, float32."""
    samples, features, out, intervals = size
    torch.manual_seed(0)
    x = torch.rand(samples, features) * 2.2 - 1.1
    coef = torch.randn(out, features, intervals + 3) * 0.1
    scale, base = torch.randn(out, features), torch.randn(out, features) / features**0.5
    grid = knots(intervals).expand(features, -1).contiguous()
    tensors = x, coef, scale, base, grid, torch.randn(samples, out)
    return tuple(t.to(harness.device()) for t in tensors)


def recursion(x: Tensor, grid: Tensor, degree: int = 3) -> Tensor:
    """The basis as efficient-kan has it: the recursion, over a third axis."""
    points = x.unsqueeze(-1)
    basis = ((points >= grid[:, :-1]) & (points < grid[:, 1:])).to(x.dtype)
    for p in range(1, degree + 1):
        left = (points - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1])
        right = (grid[:, p + 1 :] - points) / (grid[:, p + 1 :] - grid[:, 1:-p])
        basis = left * basis[..., :-1] + right * basis[..., 1:]
    return basis


def efficient_kan(
    x: Tensor, coef: Tensor, scale: Tensor, base: Tensor, grid: Tensor, degree: int = 3
) -> Tensor:
    """The layer in efficient-kan's form: two dense products."""
    spline = F.linear(recursion(x, grid, degree).flatten(1), (coef * scale.unsqueeze(-1)).flatten(1))
    return F.linear(F.silu(x), base) + spline


SHOWN = 64  # samples whose gradient is compared with float64


def step(function, leaves: tuple[Tensor, ...], upstream: Tensor, *constants: Tensor):
    """Forward and backward of one layer into fresh gradients; `gradient` gives that of the first samples."""
    leaves = tuple(t.detach().clone().requires_grad_() for t in leaves)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves, *constants).backward(upstream)

    def gradient() -> Tensor:
        run()
        return leaves[0].grad[:SHOWN]

    return run, gradient


def provider(
    name: str, function, leaves: tuple[Tensor, ...], upstream: Tensor, *constants: Tensor
) -> Provider:
    return Provider(name, *step(function, leaves, upstream, *constants))


def inkan_layers(size: tuple[int, ...], x: Tensor, upstream: Tensor) -> list[Provider]:
    """PyPI's inkan, compiled, in both modes ("local" is its default), with coefficients of its own (so
    without an error)."""
    try:
        from inkan.layer import KANLayer
    except ImportError:
        return []
    providers = []
    for mode in ("local", "dense"):
        layer = KANLayer(size[1], size[2], grid_size=size[3], basis_mode=mode).to(x.device)
        run, _ = step(lambda x, *_, layer=layer: layer(x), (x,), upstream)

        def fresh(run=run, layer=layer) -> None:
            layer.zero_grad(set_to_none=True)
            run()

        providers.append(Provider(f"inkan, {mode}", fresh))
    return providers


def products(size: tuple[int, ...], upstream: Tensor) -> Provider:
    """The three dense products alone, given the basis for nothing."""
    samples, features, out, intervals = size
    basis = torch.rand(samples, features * (intervals + 4), device=upstream.device)
    weight = torch.rand(out, features * (intervals + 4), device=upstream.device)

    def run() -> None:
        torch.mm(basis, weight.T)
        torch.mm(upstream, weight)
        torch.mm(upstream.T, basis)

    return Provider("three dense products", run)

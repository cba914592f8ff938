"""What each of two ranks checks for test_distiller_wrappers.py: under DDP, compiled DDP and FSDP2 they give
together the gradients of one process on the whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import kdfast.distill as kd

WORLD = 2


def net(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 5),
    )


def distiller() -> kd.Distiller:
    torch.manual_seed(0)
    terms = [
        kd.Term(nn.MSELoss(), "0", "0", adapter="auto"),
        kd.Term(nn.MSELoss(), "2", "2", adapter="auto", warmup=4),
        kd.Term(nn.MSELoss(), weight=2.0),
    ]
    d = kd.Distiller(net(4), net(6), terms, F.cross_entropy)
    d.set_progress(1)
    return d


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 10, 10, generator=generator), torch.tensor([0, 1, 2, 3])


def expected() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    d, (x, y) = distiller(), batch()
    loss = d(x, target=y).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in d.named_parameters()}


def check(loss: torch.Tensor, gradients: dict[str, torch.Tensor]) -> None:
    want_loss, want = expected()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / WORLD, want_loss)
    assert gradients.keys() == want.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, want[name], msg=lambda text, name=name: f"{name}: {text}")


def ddp(rank: int, *, compiled: bool = False) -> None:
    d = distiller()
    if rank:  # DDP must bring the adapters and the progress of rank 0 over
        nn.init.zeros_(d.terms[0].adapter.projection.weight)
        d.set_progress(3)
    wrapped = nn.parallel.DistributedDataParallel(d)
    if compiled:
        wrapped = torch.compile(wrapped, backend="aot_eager")
    x, y = (part[rank::WORLD] for part in batch())
    for _ in range(2):  # a second step fails where a parameter had no gradient in the first
        d.zero_grad()
        out = wrapped(x, target=y)
        out.loss.backward()
    check(out.loss, {name: p.grad for name, p in d.named_parameters()})


def fsdp2(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    d = distiller()
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in (d.student[0], d.student[2]):  # tapped modules, sharded one by one as large models are
        fully_shard(layer, mesh=mesh)
    fully_shard(d, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in d.parameters())
    assert not any(isinstance(p, DTensor) for p in d.teacher.parameters())
    x, y = (part[rank::WORLD] for part in batch())
    for _ in range(2):
        d.zero_grad()
        out = d(x, target=y)
        out.loss.backward()
    check(out.loss, {name: p.grad.full_tensor() for name, p in d.named_parameters()})


def every_wrapper(rank: int) -> None:
    torch.set_num_threads(1)
    ddp(rank)
    ddp(rank, compiled=True)
    fsdp2(rank)

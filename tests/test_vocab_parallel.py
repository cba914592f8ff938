"""vocab_parallel: two ranks that hold different classes get the loss and the gradient of whole rows."""

import pytest
import torch
from ranks import on_two_ranks

import kdfast.functional as KF
from kdfast import vocab_parallel

OPTIONS = {
    "kl_div": {},
    "reverse_kl_div": {},
    "js_div": {"beta": 0.3},
    "skew_kl_div": {"lam": 0.2},
    "tv_dist": {},
}
INF = float("inf")


def inputs(near: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher, noise = (torch.randn(5, 40, generator=generator) for _ in range(2))
    student = teacher + (1e-3 if near else 1.0) * noise
    student[1, 3], teacher[1, 3] = -INF, -INF
    student[2], student[3, 0] = -INF, float("nan")
    return student, teacher, torch.tensor([1.0, 2, 1, 0, 0.5])


def whole_rows(rank: int) -> None:
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2,))
    mine = slice(0, 15) if rank == 0 else slice(15, 40)
    for near in (False, True):
        student, teacher, mask = inputs(near)
        for name, own in OPTIONS.items():
            for reduction in ("mean", "batchmean", "none"):
                options = {"temperature": 2.0, "mask": mask, "reduction": reduction, **own}
                whole = student.clone().requires_grad_()
                truth = getattr(KF, name)(whole.double(), teacher.double(), **options)
                truth.sum().backward()
                shard = student[:, mine].clone().requires_grad_()
                loss = getattr(vocab_parallel, name)(shard, teacher[:, mine], **options)
                loss.sum().backward()
                torch.testing.assert_close(loss.double(), truth, rtol=1e-4 if near else 1e-5, atol=1e-9)
                error = (shard.grad - whole.grad[:, mine]).norm()
                assert error <= 1e-4 * whole.grad.norm(), (name, near, error)
        half = slice(20 * rank, 20 * rank + 20)
        spread = [DTensor.from_local(x[:, half].contiguous(), mesh, [Shard(1)]) for x in (student, teacher)]
        leaf = spread[0].detach().requires_grad_()
        loss = KF.kl_div(leaf, spread[1], mask=mask, reduction="mean")
        loss.backward()
        whole = student.double().requires_grad_()
        truth = KF.kl_div(whole, teacher.double(), mask=mask, reduction="mean")
        truth.backward()
        torch.testing.assert_close(loss.double(), truth, rtol=1e-4, atol=1e-9)
        error = (leaf.grad.to_local() - whole.grad[:, half]).norm()
        assert leaf.grad.placements == leaf.placements and error <= 1e-4 * whole.grad.norm()
        js = KF.js_div(*spread, beta=0.3, reduction="none")
        torch.testing.assert_close(
            js.double(), KF.js_div(student.double(), teacher.double(), beta=0.3, reduction="none"),
            rtol=1e-4, atol=1e-9, equal_nan=True,
        )  # fmt: skip
        with pytest.raises(ValueError, match="sharded on its last dimension"):
            KF.kl_div(*(DTensor.from_local(x, mesh, [Shard(0)]) for x in (student, teacher)))


def test_two_ranks(tmp_path):
    on_two_ranks(whole_rows, tmp_path)


def impossible_classes(rank: int) -> None:
    student, teacher = 100 * torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(1))
    student[0, 3], teacher[1, 4], student[2, 5] = -INF, -INF, float("nan")
    mine = slice(0, 8) if rank == 0 else slice(8, 20)
    shares = ({"beta": 0}, {"beta": 1}, {"beta": 0.5})
    for name, own in [(n, o) for n in OPTIONS for o in (shares if n == "js_div" else (OPTIONS[n],))]:
        whole, shard = student.double().requires_grad_(), student[:, mine].clone().requires_grad_()
        truth = getattr(KF, name)(whole, teacher.double(), reduction="none", **own)
        loss = getattr(vocab_parallel, name)(shard, teacher[:, mine], reduction="none", **own)
        truth.sum().backward()
        loss.sum().backward()
        torch.testing.assert_close(loss.double(), truth, rtol=1e-4, atol=1e-6, equal_nan=True)
        grad = shard.grad.double()
        torch.testing.assert_close(grad, whole.grad[:, mine], rtol=1e-4, atol=1e-6, equal_nan=True)


def test_classes_that_cannot_occur(tmp_path):
    on_two_ranks(impossible_classes, tmp_path)


def test_bad_input():
    x = torch.randn(3, 5)
    with pytest.raises(ValueError, match="5 and 4 classes"):
        vocab_parallel.kl_div(x, x[:, :4])
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]"):
        vocab_parallel.js_div(x, x, beta=2)
    with pytest.raises(TypeError, match="student must be a tensor"):
        vocab_parallel.kl_div([1.0], x)

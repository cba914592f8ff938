"""vocab_parallel's losses against targets, probabilities and sparse teachers: two ranks that hold different
classes get the loss and the gradient of whole rows."""

import pytest
import torch
from ranks import on_two_ranks

import kdfast.functional as KF
from kdfast import vocab_parallel

INF = float("inf")
CLASSES = 40


def whole_inputs(dtype: torch.dtype, distance: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher, noise = (torch.randn(7, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    student = teacher + distance * noise
    student[0, 5] += 25  # nearly all of a row
    student[1, 3], teacher[1, 3] = -INF, -INF
    student[2], student[3, 0] = -INF, float("nan")
    log_p, index = teacher.log_softmax(-1).topk(6)
    target = torch.tensor([5, 12, 1, 30, -100, 39, 0])
    return {
        "student": student.to(dtype),
        "teacher": teacher.to(dtype),
        "target": target,
        "weight": torch.rand(CLASSES, generator=generator).to(dtype),
        "probs": (2 * teacher.softmax(-1)).to(dtype),
        "log_p": log_p.to(dtype),
        "index": index,
        "mask": torch.tensor([1.0, 2, 1, 0, 1, 0.5, 1]),
    }


def losses(functions, x: dict[str, torch.Tensor], reduction: str) -> dict[str, torch.Tensor]:
    """Every loss, of whole rows or of a rank's part of them."""
    both = {"mask": x["mask"], "reduction": reduction}
    hard = x["student"], x["teacher"], x["target"]
    focal = torch.where(x["mask"] == 0, -100, x["target"])
    found = {
        "plain": functions.cross_entropy_kl_div(*hard, **both),
        "all options": functions.cross_entropy_kl_div(
            *hard, temperature=2.0, label_smoothing=0.2, weight=x["weight"], scale_t2=False, **both
        ),
        "soft": functions.soft_cross_entropy(x["student"], x["probs"], temperature=2.0, **both),
        "focal": functions.focal_loss(x["student"], focal, weight=x["weight"], reduction=reduction),
        "focal, w in p": functions.focal_loss(
            x["student"], focal, weight=x["weight"], weight_in_pt=True, gamma=1.5, reduction=reduction
        ),
    }
    for tail in ("bucket", "renormalize"):
        found[tail] = functions.topk_kl_div(
            x["student"], x["log_p"], x["index"], temperature=2.0, tail=tail, **both
        )
    return {
        f"{name} {i}": value
        for name, loss in found.items()
        for i, value in enumerate(loss if isinstance(loss, tuple) else (loss,))
    }


def part(x: dict[str, torch.Tensor], mine: slice) -> dict[str, torch.Tensor]:
    return {name: v[..., mine].clone() if v.size(-1) == CLASSES else v for name, v in x.items()}


def agree(rank: int) -> None:
    torch.set_num_threads(1)
    mine = slice(0, 15) if rank == 0 else slice(15, CLASSES)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        for distance in (1.0, 1e-2):
            rounded = whole_inputs(dtype, distance)
            for reduction in ("mean", "none"):
                wide = {k: v.double() if v.is_floating_point() else v for k, v in rounded.items()}
                wide["student"].requires_grad_()
                truth = losses(KF, wide, reduction)
                shard = part(rounded, mine)
                shard["student"].requires_grad_()
                ours = losses(vocab_parallel, shard, reduction)
                for name, value in ours.items():
                    where = name, dtype, distance, reduction
                    torch.testing.assert_close(
                        value.double(), truth[name], rtol=5 * tolerance, atol=tolerance, msg=str(where)
                    )
                    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=torch.float64).view_as(value)
                    (expected,) = torch.autograd.grad(
                        (weights * truth[name]).sum(), wide["student"], retain_graph=True
                    )
                    (grad,) = torch.autograd.grad(
                        (weights * value).sum(), shard["student"], retain_graph=True
                    )
                    error = (grad.double() - expected[:, mine]).norm()
                    assert grad.dtype == dtype and error <= tolerance * expected.norm(), (where, error)


def test_two_ranks(tmp_path):
    on_two_ranks(agree, tmp_path)


def sharded_tensors(rank: int) -> None:
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    whole = whole_inputs(torch.float32, 1.0)
    mine = slice(20 * rank, 20 * rank + 20)
    spread = {
        name: DTensor.from_local(v[..., mine].contiguous(), mesh, [Shard(v.dim() - 1)])
        if v.size(-1) == CLASSES
        else v
        for name, v in whole.items()
    }
    spread["student"].requires_grad_()
    whole["student"].requires_grad_()
    truth, ours = losses(KF, whole, "mean"), losses(KF, spread, "mean")
    for name, value in ours.items():
        torch.testing.assert_close(value, truth[name], rtol=1e-5, atol=1e-6)
    sum(ours.values()).backward()
    sum(truth.values()).backward()
    found, expected = spread["student"].grad, whole["student"].grad[:, mine]
    assert found.placements == spread["student"].placements
    torch.testing.assert_close(found.to_local(), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="last dimension"):
        KF.soft_cross_entropy(spread["student"], spread["probs"], dim=0)


def test_sharded_tensors(tmp_path):
    on_two_ranks(sharded_tensors, tmp_path)


def bad_numbers(rank: int) -> None:
    x = torch.randn(3, 5)
    for target in (torch.tensor([0, 10, 1]), torch.tensor([0, -1, 1])):
        with pytest.raises(ValueError, match=r"target must hold class numbers in \[0, 9\], got (10|-1)"):
            vocab_parallel.cross_entropy_kl_div(x, x, target)
    with pytest.raises(ValueError, match=r"teacher_indices must hold class numbers in \[0, 9\], got 12"):
        vocab_parallel.topk_kl_div(x, torch.zeros(3, 1), torch.tensor([[0], [12], [1]]))


def test_numbers_that_are_no_class(tmp_path):
    on_two_ranks(bad_numbers, tmp_path)


def test_bad_input():
    x, target = torch.randn(3, 5), torch.zeros(3, dtype=torch.long)
    for call, error, words in (
        (lambda: vocab_parallel.cross_entropy_kl_div(x, x[:, :4], target), ValueError, "5 and 4 classes"),
        (lambda: vocab_parallel.cross_entropy_kl_div(x, x, target[:2]), ValueError, "target must have shape"),
        (
            lambda: vocab_parallel.cross_entropy_kl_div(x, x, target, label_smoothing=2),
            ValueError,
            "smoothing",
        ),
        (lambda: vocab_parallel.soft_cross_entropy(x, x, temperature=0), ValueError, "temperature"),
        (lambda: vocab_parallel.focal_loss([1.0], target), TypeError, "logits must be a tensor"),
        (lambda: vocab_parallel.focal_loss(x, target, gamma=-1), ValueError, "gamma"),
        (lambda: vocab_parallel.topk_kl_div(x, x[:2], target), ValueError, "student's rows"),
        (lambda: vocab_parallel.topk_kl_div(x, x, x.long(), tail="cut"), ValueError, "tail must be one of"),
    ):
        with pytest.raises(error, match=words):
            call()

"""TeacherCache: what comes back is what was put, dense, at half precision or as the top k."""

from __future__ import annotations

import pytest
import torch
from teacher_outputs import CLASSES, logits
from torch import nn

from kdfast.distill import TeacherCache, TopK


def test_dense_outputs_come_back_exactly(tmp_path) -> None:
    values = logits(5)
    with TeacherCache(tmp_path / "cache") as cache:
        assert cache.put(range(5), values, augmentation="none") == 5
        torch.testing.assert_close(
            cache.get([3, 0, 3], augmentation="none"), values[[3, 0, 3]], rtol=0, atol=0
        )
    again = TeacherCache(tmp_path / "cache")
    assert len(again) == 5 and again.top_k is None
    torch.testing.assert_close(again.get([4, 1], augmentation="none"), values[[4, 1]], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8])
def test_dtypes_and_shapes(tmp_path, dtype) -> None:
    values = {"p3": torch.randint(0, 9, (4, 2, 3, 3)).to(dtype), "": torch.randn(4)}
    with TeacherCache(tmp_path) as cache:
        cache.put(torch.arange(4), values, augmentation=0)
    out = TeacherCache(tmp_path).get([2, 1], augmentation=0)
    assert out.keys() == values.keys()
    for name, value in values.items():
        assert out[name].dtype == value.dtype
        assert torch.equal(out[name], value[[2, 1]])


def test_dense_at_half_precision(tmp_path) -> None:
    values = {"a": logits(3), "n": torch.arange(3)}
    with TeacherCache(tmp_path, dtype=torch.float16) as cache:
        cache.put(["a", "c", "b"], values, augmentation="x")
        out = cache.get(["a", "b"], augmentation="x")
    assert out["a"].dtype == torch.float16 and out["n"].dtype == torch.int64
    assert TeacherCache(tmp_path).dtype == torch.float16


def test_top_k(tmp_path) -> None:
    values, temperature = logits(6).reshape(2, 3, CLASSES), 2.0
    with TeacherCache(tmp_path, top_k=4, temperature=temperature) as cache:
        cache.put(["a", "b"], values, augmentation="none")
    out = TeacherCache(tmp_path).get(["b", "a"], augmentation="none")
    want, indices = (values / temperature).log_softmax(-1)[[1, 0]].topk(4)
    assert isinstance(out, TopK) and out.log_probs.dtype == torch.float32 and out.indices.dtype == torch.int64
    assert torch.equal(out.indices, indices)
    torch.testing.assert_close(out.log_probs, want, rtol=2**-10, atol=2e-3)
    # Rounding to float16 may not move probability between the top k and the tail.
    torch.testing.assert_close(out.log_probs.exp().sum(-1), want.exp().sum(-1), rtol=1e-6, atol=0)


def test_the_tail_of_a_confident_teacher_survives(tmp_path) -> None:
    values = torch.zeros(1, CLASSES, dtype=torch.float64)
    values[0, 7] = 20.0
    with TeacherCache(tmp_path, top_k=3) as cache:
        cache.put([0], values, augmentation="none")
        log_mass = torch.logsumexp(cache.get([0], augmentation="none").log_probs.double(), -1)
    tail = -torch.expm1(log_mass)
    torch.testing.assert_close(tail, values.softmax(-1)[:, 0] * (CLASSES - 3), rtol=0.1, atol=0)


@pytest.mark.parametrize("classes", [2**16, 2**16 + 1])
def test_class_indices_of_large_vocabularies(tmp_path, classes) -> None:
    values = torch.zeros(1, classes)
    values[0, -1] = 5.0
    with TeacherCache(tmp_path, top_k=1) as cache:
        cache.put([0], values, augmentation="none")
    assert TeacherCache(tmp_path).get([0], augmentation="none").indices.item() == classes - 1


def test_ready_top_k_and_impossible_classes(tmp_path) -> None:
    values = logits(3)
    values[0, 2:] = -torch.inf
    values[1] = -torch.inf
    top = TopK(*values[2:].log_softmax(-1).topk(4))
    with TeacherCache(tmp_path, top_k=4) as cache:
        cache.put([0, 1], values[:2], augmentation="none")
        cache.flush()
        cache.put([2], top, augmentation="none")
        out = cache.get([0, 1, 2], augmentation="none")
    assert out.log_probs[0].isneginf().tolist() == [False, False, True, True]
    torch.testing.assert_close(out.log_probs[0, :2].exp().sum(), torch.tensor(1.0))
    assert out.log_probs[1].isneginf().all()
    assert torch.equal(out.indices[2], top.indices[0])


def test_topk_kl_div_takes_it(tmp_path) -> None:
    import kdfast.functional as KF

    teacher, student = logits(4), logits(4, seed=1).requires_grad_()
    with TeacherCache(tmp_path, top_k=8, temperature=2.0, dtype=torch.float32) as cache:
        soft = cache.get_or_put(range(4), lambda todo: teacher[todo], augmentation="none")
    loss = KF.topk_kl_div(student, *soft, temperature=2.0)
    exact = KF.topk_kl_div(student, *(teacher / 2).log_softmax(-1).topk(8), temperature=2.0)
    torch.testing.assert_close(loss, exact)
    loss.backward()


def test_the_size_of_64_of_32000_classes(tmp_path) -> None:
    rows = 64
    values = logits(rows, 32000)
    with TeacherCache(tmp_path, top_k=64) as cache:
        cache.put(range(rows), values, augmentation="none")
        cache.flush()
        stats = cache.stats()
    assert stats["raw_bytes"] == values.nbytes and stats["rows"] == rows
    assert stats["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    print(f"top-64 of 32000: {stats['bytes'] / rows:.0f} bytes a row, 1/{stats['ratio']:.0f} of float32")
    assert stats["ratio"] > 400


def test_as_the_teacher_of_a_distiller(tmp_path) -> None:
    from kdfast.distill import Distiller, Term

    torch.manual_seed(0)
    student, teacher, x = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(5, 4)
    cache = TeacherCache(tmp_path, teacher=teacher)
    live, replayed = (
        Distiller(student, teacher, [Term(nn.MSELoss())]),
        Distiller(student, None, [Term(nn.MSELoss())]),
    )
    cache.put(range(5), live(x).teacher, augmentation="none")
    torch.testing.assert_close(
        replayed(x, replay={"": cache.get(range(5), augmentation="none")}).loss, live(x).loss
    )

"""First derivatives only, and never a second one that is silently incomplete."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import kdfast
import kdfast.functional as KF


@pytest.fixture(autouse=True)
def native(need):
    need.backend("native")
    with kdfast.use("native"):
        yield


def losses():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(4, 8, 5, 5, generator=generator)
    rows = teacher.flatten(1)
    target = torch.arange(4)
    return {
        "kl_div": lambda x: KF.kl_div(x, teacher, dim=1),
        "kl_div of what x makes": lambda x: KF.kl_div(x.sin(), teacher, dim=1),
        "kl_div beside a plain term": lambda x: KF.kl_div(x, teacher, dim=1) + x.pow(3).sum(),
        "kl_div by row": lambda x: KF.kl_div(x.flatten(1), rows, reduction="none").sum(),
        "cross_entropy_kl_div": lambda x: sum(KF.cross_entropy_kl_div(x.flatten(1), rows, target)),
        "attention_transfer": lambda x: KF.attention_transfer(x, teacher),
        "similarity_preserving": lambda x: KF.similarity_preserving(x, teacher),
        "masked_mse": lambda x: KF.masked_mse(x, teacher, spatial=torch.rand(4, 2, 5, 5))[0],
    }


@pytest.mark.parametrize("name", losses())
def test_a_second_derivative_is_refused_however_it_is_asked_for(name):
    x = torch.randn(4, 8, 5, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(losses()[name](x), x, create_graph=True)
    penalty = gradient.square().sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(penalty, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        penalty.backward()


def test_nothing_of_the_inputs_is_kept_for_it():
    x = torch.randn(64, 1000, requires_grad=True)
    student = x.sin()
    memory = StorageWeakRef(student.untyped_storage())
    loss = KF.kl_div(student, torch.randn(64, 1000))
    del student
    assert memory.expired()
    loss.backward()

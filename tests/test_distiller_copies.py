"""Distiller: the exported student, copies and pickles, and a teacher replayed from stored outputs."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch
import torch.nn.functional as F
from distill_models import X, mlp, pair
from torch import nn

from kdfast.distill import Distiller, Term, TopK


def test_export_student() -> None:
    student = mlp()
    keys, before = list(student.state_dict()), pickle.dumps(student)
    d = Distiller(student, mlp(7), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    d(X)
    assert d.export_student() is student
    assert not any(module._forward_hooks for module in student.modules())
    assert list(student.state_dict()) == keys and pickle.dumps(student) == before
    assert b"kdfast" not in pickle.dumps(student)
    d(X).loss.backward()  # training may go on
    d.export_student()
    d.attach()
    assert student[0]._forward_hooks


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_are_independent(clone) -> None:
    d = pair(Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(6, 6)))
    d(X)
    twin = clone(d)
    torch.testing.assert_close(twin(X).loss, d(X).loss)
    with torch.no_grad():
        twin.student[0].weight.zero_()
        twin.teacher[0].weight.zero_()
    assert not torch.equal(twin(X).loss, d(X).loss)
    twin.export_student()
    assert d.student[0]._forward_hooks and not twin.student[0]._forward_hooks


def test_hooks_go_with_the_distiller() -> None:
    student, teacher = mlp(), mlp(seed=1)
    d = Distiller(student, teacher, [Term(nn.MSELoss(), "0", "0")])
    d(X)
    del d
    gc.collect()
    assert not any(m._forward_hooks for model in (student, teacher) for m in model.modules())


def test_functions_that_cannot_be_pickled_raise() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(pair(Term(lambda s, t: (s - t).mean())))


def test_a_copy_of_the_student_alone_is_quiet() -> None:
    d = pair()
    d(X)
    average = torch.optim.swa_utils.AveragedModel(d.student)
    average(X)
    assert d._student_taps._calls is None
    torch.testing.assert_close(average(X), d.student(X))


def test_replay() -> None:
    logits, feature = torch.randn(3, 3), torch.randn(3, 6)
    d = Distiller(mlp(), None, [Term(nn.MSELoss()), Term(nn.MSELoss(), "0", "0")])
    out = d(X, replay={"": logits, "0": feature})
    assert out.teacher is logits
    torch.testing.assert_close(
        out.loss, F.mse_loss(d.student(X), logits) + F.mse_loss(d.student[0](X), feature)
    )
    with pytest.raises(ValueError, match="replay has '', but the terms need \\['0'\\]"):
        d(X, replay={"": logits})
    with pytest.raises(ValueError, match="no teacher"):
        d(X)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(mlp(), None, [Term(nn.MSELoss(), adapter="auto")])

    def sparse(student: torch.Tensor, log_probs: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        return (student.gather(-1, indices) - log_probs).square().sum()

    top = TopK(*logits.log_softmax(-1).topk(2))
    d = Distiller(mlp(), None, [Term(sparse)])
    torch.testing.assert_close(d(X, replay={"": top}).loss, sparse(d.student(X), *top))

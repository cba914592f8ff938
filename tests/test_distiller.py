"""Distiller and Term: the sum they compute, its gradients, and the teacher they keep apart."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from distill_models import SquaredError, X, Y, mlp, pair
from torch import nn

from kdfast.distill import Distiller, Frozen, Term


class Scaled(nn.Module):
    """A loss with a parameter of its own and a target."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.scale * F.cross_entropy(student - teacher, target)


def test_loss_is_the_weighted_sum() -> None:
    terms = [Term(nn.MSELoss(), "0", "0", weight=3.0), Term(F.l1_loss, "", "", name="logits", weight=-0.5)]
    d = pair(*terms, task_loss=F.cross_entropy)
    out = d(X, target=Y)
    student, teacher = mlp(seed=1), mlp(seed=2)
    mse = F.mse_loss(student[0](X), teacher[0](X))
    l1 = F.l1_loss(student(X), teacher(X))
    torch.testing.assert_close(out.loss, F.cross_entropy(student(X), Y) + 3 * mse - 0.5 * l1)
    assert out._fields == ("loss", "terms", "output", "teacher")
    loss, values, output, taught = out
    torch.testing.assert_close(values, {"MSELoss": mse.detach(), "logits": l1.detach()})
    torch.testing.assert_close(output, student(X))
    torch.testing.assert_close(taught, teacher(X))
    assert loss.dim() == 0 and not taught.requires_grad
    assert all(value.dim() == 0 and not value.requires_grad for value in values.values())


def test_gradients_are_those_of_the_sum() -> None:
    d = pair(Term(nn.MSELoss(), "0", "0", weight=3.0), task_loss=F.cross_entropy)
    d(X, target=Y).loss.backward()
    student, teacher = mlp(seed=1), mlp(seed=2)
    (F.cross_entropy(student(X), Y) + 3 * F.mse_loss(student[0](X), teacher[0](X).detach())).backward()
    for ours, plain in zip(d.student.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad)
    assert all(p.grad is None for p in d.teacher.parameters())


def test_names() -> None:
    terms = [Term(nn.MSELoss()), Term(SquaredError()), Term(nn.MSELoss()), Term(nn.MSELoss(), name="mine")]
    terms += [Term(nn.MSELoss()), Term(F.mse_loss), Term(lambda s, t: (s - t).mean())]
    names = ["MSELoss", "SquaredError", "MSELoss_2", "mine", "MSELoss_3", "mse_loss", "loss"]
    assert list(pair(*terms)(X).terms) == names
    assert list(pair(Term(nn.MSELoss(), name="a"), Term(nn.L1Loss(), name="a"))(X).terms) == ["a", "a_2"]


def test_losses_with_parameters_and_targets() -> None:
    d = pair(Term(Scaled(), target=True))
    assert "terms.0.loss.scale" in dict(d.named_parameters())
    out = d(X, target=Y)
    out.loss.backward()
    torch.testing.assert_close(out.loss, 2 * d.terms[0].loss.scale.grad)
    with pytest.raises(ValueError, match="target is None, but 'Scaled' needs it"):
        d(X)
    with pytest.raises(ValueError, match="target is None, but task_loss needs it"):
        pair(task_loss=F.cross_entropy)(X)


def test_kdfast_losses() -> None:
    from kdfast.nn import KLDivLoss

    d = pair(Term(KLDivLoss(temperature=4.0)))
    out = d(X)
    want = 16 * F.kl_div(
        F.log_softmax(out.output / 4, -1),
        F.log_softmax(out.teacher / 4, -1),
        log_target=True,
        reduction="batchmean",
    )
    torch.testing.assert_close(out.loss, want)
    with pytest.raises(
        ValueError, match="student module '0' gave \\[3, 6\\] and teacher module '' gave \\[3, 3\\]"
    ):
        pair(Term(KLDivLoss(), "0", ""))(X)


def test_warmup_is_a_tensor_buffer() -> None:
    d = pair(Term(nn.MSELoss(), warmup=4, weight=2.0), Term(nn.L1Loss()))
    assert "progress" in d.state_dict()
    for progress, factor in ((None, 0.0), (1, 0.25), (3.0, 0.75), (torch.tensor(4), 1.0), (9, 1.0)):
        if progress is not None:
            d.set_progress(progress)
        out = d(X)
        torch.testing.assert_close(out.loss, 2 * factor * out.terms["MSELoss"] + out.terms["L1Loss"])
    fresh = pair(Term(nn.MSELoss(), warmup=4, weight=2.0), Term(nn.L1Loss()))
    fresh.load_state_dict(d.state_dict())
    assert fresh.progress == 9
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="progress"):
            d.set_progress(wrong)


def test_progress_is_not_rounded_with_the_model() -> None:
    d = pair(Term(nn.MSELoss(), warmup=4))
    d.set_progress(1001.25)
    d.to(torch.bfloat16)
    assert d.progress.dtype == torch.float32 and d.progress == 1001.25


def test_keyword_inputs_reach_both_models() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, *, shift: float) -> torch.Tensor:
            return self.linear(x) + shift

    d = Distiller(Shift(), Shift(), [Term(nn.MSELoss())])
    out = d(X, shift=5.0)
    torch.testing.assert_close(out.output, d.student.linear(X) + 5)
    torch.testing.assert_close(out.teacher, d.teacher.linear(X) + 5)


def test_teacher_inputs() -> None:
    d = pair(teacher_inputs=lambda x: (x - 1) / 2)
    torch.testing.assert_close(d(X).teacher, mlp(seed=2)((X - 1) / 2))


def test_the_teacher_is_frozen_hidden_and_in_eval_mode() -> None:
    teacher = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    d = Distiller(mlp(), teacher, [Term(nn.MSELoss())])
    assert d.teacher is teacher and all(module is not teacher for module in d.modules())
    d.train()
    assert d.student.training and not any(module.training for module in teacher.modules())
    before = copy.deepcopy(teacher.state_dict())
    ours = {id(p) for p in d.parameters()} | {id(b) for b in d.buffers()}
    assert not ours & {id(p) for p in [*teacher.parameters(), *teacher.buffers()]}
    assert not any("teacher" in name or "frozen" in name for name in d.state_dict())
    assert not any(p.requires_grad for p in teacher.parameters())
    d(X).loss.backward()
    teacher.train()  # even so
    d(X)
    assert not teacher.training
    torch.testing.assert_close(dict(teacher.state_dict()), dict(before))


def test_the_teacher_moves_but_keeps_its_dtype() -> None:
    d = pair()
    d.half().double().to(torch.bfloat16)
    assert {p.dtype for p in d.teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in d.student.parameters()} == {torch.bfloat16}
    d.float()
    out = d(X.double().float())
    assert out.teacher.dtype == torch.float32
    d.to("meta")
    assert {p.device.type for p in [*d.teacher.parameters(), *d.parameters(), d.progress]} == {"meta"}


def test_half_precision_students_with_a_float_teacher() -> None:
    d = pair(Term(nn.MSELoss(), "0", "0")).to(torch.bfloat16)
    out = d(X.bfloat16())
    assert (out.output.dtype, out.teacher.dtype, out.loss.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    out.loss.backward()


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), SquaredError()]
)
def test_teacher_dtype(loss) -> None:
    d = pair(Term(loss), teacher_dtype=torch.bfloat16)
    assert {p.dtype for p in d.teacher.parameters()} == {torch.bfloat16}
    d.float()
    assert {p.dtype for p in d.teacher.parameters()} == {torch.bfloat16}
    out = d(X)
    out.loss.backward()
    assert out.teacher.dtype == torch.bfloat16 and out.loss.dtype == torch.float32
    with pytest.raises(TypeError, match="dtype must be"):
        pair(teacher_dtype=torch.int8)


def test_no_host_synchronisation() -> None:
    """On the meta device reading a value is impossible, so what runs there never reads one."""
    d = pair(Term(nn.MSELoss(), "0", "0", adapter="auto", warmup=3), task_loss=F.cross_entropy).to("meta")
    out = d(X.to("meta"), target=Y.to("meta"))
    assert out.loss.is_meta
    out.loss.backward()


def test_a_frozen_stage_lets_gradients_through() -> None:
    class ThroughStage(nn.Module):
        def __init__(self, stage: nn.Module) -> None:
            super().__init__()
            self.project, self.stage = nn.Linear(6, 6), Frozen(stage)

        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return F.mse_loss(self.stage(self.project(student)), teacher)

    teacher = mlp(seed=2)
    d = Distiller(mlp(seed=1), teacher, [Term(ThroughStage(teacher[2]), "0", "")])
    assert sorted(n for n, _ in d.terms.named_parameters()) == [
        "0.loss.project.bias",
        "0.loss.project.weight",
    ]
    d(X).loss.backward()
    assert d.student[0].weight.grad.abs().sum() > 0 and d.terms[0].loss.project.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    d.train().to(torch.float64)
    assert teacher[2].weight.dtype == torch.float32 and not teacher[2].training
    d.to("meta")
    assert teacher[2].weight.is_meta


def test_several_paths_give_the_loss_a_tuple():
    """A term over two layers equals the sum of two terms, and its loss's parameters train."""
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)) for _ in range(2))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, s, t):
            return self.scale * sum(F.mse_loss(a, b) for a, b in zip(s, t, strict=True))

    x = torch.randn(5, 4)
    joint = Distiller(student, teacher, terms=[Term(Both(), ("0", "2"), ("0", "2"))])
    out = joint(x)
    apart = Distiller(student, teacher, terms=[Term(nn.MSELoss(), path, path) for path in ("0", "2")])
    torch.testing.assert_close(out.loss, apart(x).loss)
    out.loss.backward()
    assert joint.terms[0].loss.scale.grad is not None
    with pytest.raises(ValueError, match="has no module 'nowhere'"):
        Distiller(student, teacher, terms=[Term(Both(), ("0", "nowhere"), ("0", "2"))])
    with pytest.raises(ValueError, match="for one path on each side"):
        Term(nn.MSELoss(), ("0", "2"), "2", adapter="auto")
    with pytest.raises(TypeError, match="tuple of them"):
        Term(nn.MSELoss(), ("0", 2), "2")

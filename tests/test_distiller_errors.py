"""What Distiller and Term refuse: shapes, paths, outputs and arguments that do not fit, each named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from distill_models import SquaredError, X, Y, mlp, pair
from torch import nn

from kdfast.distill import Distiller, Term


class FirstItem(nn.Module):
    """Returns (features, {"logits": ...}); a head nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        y = self.body(x)
        return y, {"logits": 2 * y}


@pytest.mark.parametrize("loss", [nn.MSELoss(), SquaredError(), F.mse_loss, lambda s, t: (s * t).sum()])
def test_shapes_that_do_not_fit_name_both_sides(loss) -> None:
    d = Distiller(mlp(5), mlp(7), [Term(loss, "0", "1", name="kd")])
    message = "'kd'.*student module '0' gave \\[3, 5\\].*teacher module '1' gave \\[3, 7\\].*adapter=\"auto\""
    with pytest.raises(ValueError, match=message):
        d(X)


def test_shapes_that_would_broadcast_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Distiller(mlp(1), mlp(7), [Term(nn.MSELoss(), "0", "0")])(X)


def test_losses_that_take_different_shapes_may() -> None:
    def relations(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(student @ student.T, teacher @ teacher.T)

    Distiller(mlp(5), mlp(7), [Term(relations, "0", "0")])(X).loss.backward()


def test_example_inputs_check_shapes_at_construction() -> None:
    with pytest.raises(ValueError, match="gave \\[3, 5\\].*gave \\[3, 7\\]"):
        Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0")], example_inputs=X)


def test_an_adapter_that_does_not_fit_is_named() -> None:
    term = Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(9, 7))
    with pytest.raises(ValueError, match="student module '0' gave \\[3, 5\\]"):
        Distiller(mlp(5), mlp(7), [term])(X)
    term = Term(nn.MSELoss(), "0", "0", adapter=nn.Linear(5, 9))
    with pytest.raises(ValueError, match="gave \\[3, 9\\] after Linear"):
        Distiller(mlp(5), mlp(7), [term])(X)


@pytest.mark.parametrize("paths, role", [(("hea", "0"), "student"), (("0", "hea"), "teacher")])
def test_missing_paths(paths, role) -> None:
    models = [mlp(), mlp(seed=1)]
    for model in models:
        model.add_module("head", nn.Identity())
    with pytest.raises(
        ValueError, match=f"student module .* teacher module .* the {role} Sequential .*'head'"
    ):
        Distiller(*models, [Term(nn.MSELoss(), *paths)])


def test_modules_that_return_more_than_a_tensor() -> None:
    d = Distiller(FirstItem(), mlp(), [Term(nn.MSELoss(), "[1][logits]", "")])
    torch.testing.assert_close(d(X).loss, F.mse_loss(2 * d.student.body(X), d.teacher(X)))
    d = Distiller(FirstItem(), FirstItem(), [Term(lambda s, t: F.mse_loss(s[1]["logits"], t[0]))])
    torch.testing.assert_close(d(X).loss, F.mse_loss(2 * d.student.body(X), d.teacher.body(X)))
    for adapter in (None, "auto"):
        with pytest.raises(
            TypeError, match=r"student module '' gave a tuple of 2 \(a tensor \[\d, 3\].*\[0\]"
        ):
            Distiller(FirstItem(), mlp(), [Term(nn.MSELoss(), adapter=adapter)], example_inputs=X)(X)


def test_values_that_are_not_scalars() -> None:
    with pytest.raises(
        ValueError, match="term 'MSELoss': the loss must return a 0-d tensor, got a tensor \\[3, 3\\]"
    ):
        pair(Term(nn.MSELoss(reduction="none")))(X)
    with pytest.raises(ValueError, match="task_loss: the loss must return"):
        pair(task_loss=lambda output, target: (output.sum(), 0))(X, target=Y)


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Term(nn.MSELoss), TypeError),
        (lambda: Term("mse"), TypeError),
        (lambda: Term(nn.MSELoss(), 0), TypeError),
        (lambda: Term(nn.MSELoss(), weight="1"), TypeError),
        (lambda: Term(nn.MSELoss(), weight=float("nan")), ValueError),
        (lambda: Term(nn.MSELoss(), warmup=-1), ValueError),
        (lambda: Term(nn.MSELoss(), adapter="conv"), ValueError),
        (lambda: Term(nn.MSELoss(), adapter=nn.Linear), TypeError),
        (lambda: Term(nn.MSELoss(), name=""), ValueError),
        (lambda: Term(nn.MSELoss(), "0", "0", "name"), TypeError),
        (lambda: Distiller(mlp(), "teacher", [Term(nn.MSELoss())]), TypeError),
        (lambda: Distiller(mlp(), mlp(), [nn.MSELoss()]), TypeError),
        (lambda: Distiller(mlp(), mlp(), Term(nn.MSELoss())), TypeError),
        (lambda: Distiller(mlp(), mlp(), []), ValueError),
        (lambda: Distiller(mlp(), mlp(), [], task_loss="ce"), TypeError),
        (lambda: Distiller(nn.DataParallel(mlp()), mlp(), [Term(nn.MSELoss())]), TypeError),
        (lambda: Distiller(torch.compile(mlp()), mlp(), [Term(nn.MSELoss())]), RuntimeError),
        (lambda: Distiller(mlp(), torch.compile(mlp()), [Term(nn.MSELoss())]), RuntimeError),
    ],
)
def test_bad_arguments(make, error) -> None:
    with pytest.raises(error):
        make()


def test_a_teacher_that_shares_parameters() -> None:
    student = mlp()
    with pytest.raises(ValueError, match="share the parameter.*deepcopy"):
        Distiller(student, student, [Term(nn.MSELoss())])
    assert all(p.requires_grad for p in student.parameters())

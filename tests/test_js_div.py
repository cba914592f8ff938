"""js_div: its definition, the vectors, accuracy near convergence, PyTorch's transforms, bad input."""

import divergence_checks as checks
import pytest
import torch

import kdfast
import kdfast.functional as KF
from kdfast.ops.js_div import js_div_reference


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    checks.agrees_with_definition(KF.js_div, js_div_reference, place, dtype)


def test_vectors(place):
    checks.matches_vectors(KF.js_div, "js_div", place, beta=0.3)


def test_accurate_near_convergence(place):
    checks.accurate_near_convergence(KF.js_div, js_div_reference, place)


def test_any_range(place):
    checks.survives_any_range(KF.js_div, js_div_reference, place)


def test_accurate_in_bfloat16(place):
    checks.accurate_in_bfloat16(KF.js_div, place)


def test_rows_that_do_not_count(place):
    checks.handles_rows_that_do_not_count(KF.js_div, place)


def test_works_with_pytorch(place):
    checks.works_with_pytorch(KF.js_div, place)


def test_opcheck(need):
    need.backend("native")
    checks.passes_opcheck(torch.ops.kdfast.js_div, "cpu", 0.3)


def test_bad_input():
    checks.refuses_bad_input(KF.js_div)


def test_module():
    student, teacher = torch.randn(6, 9), torch.randn(6, 9)
    module = kdfast.nn.JSDivLoss(temperature=3.0)
    assert torch.equal(module(student, teacher), KF.js_div(student, teacher, temperature=3.0))


def test_end_points_and_range():
    student, teacher = torch.randn(4, 9, requires_grad=True), torch.randn(4, 9)
    for beta in (0, 1.0):
        loss = KF.js_div(student, teacher, beta=beta)
        assert loss == 0 and (torch.autograd.grad(loss, student)[0] == 0).all()
    for beta in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"beta must be in \[0, 1\]"):
            KF.js_div(student, teacher, beta=beta)

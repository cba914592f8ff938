"""tv_dist: its definition, the vectors, accuracy near convergence, PyTorch's transforms, bad input."""

import divergence_checks as checks
import pytest
import torch

import kdfast
import kdfast.functional as KF
from kdfast.ops.tv_dist import tv_dist_reference


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    checks.agrees_with_definition(KF.tv_dist, tv_dist_reference, place, dtype)


def test_vectors(place):
    checks.matches_vectors(KF.tv_dist, "tv_dist", place)


def test_accurate_near_convergence(place):
    checks.accurate_near_convergence(KF.tv_dist, tv_dist_reference, place)


def test_any_range(place):
    checks.survives_any_range(KF.tv_dist, tv_dist_reference, place)


def test_accurate_in_bfloat16(place):
    checks.accurate_in_bfloat16(KF.tv_dist, place)


def test_rows_that_do_not_count(place):
    checks.handles_rows_that_do_not_count(KF.tv_dist, place)


def test_works_with_pytorch(place):
    checks.works_with_pytorch(KF.tv_dist, place)


def test_opcheck(need):
    need.backend("native")
    checks.passes_opcheck(torch.ops.kdfast.tv_dist, "cpu", 0.0)


def test_bad_input():
    checks.refuses_bad_input(KF.tv_dist)


def test_module():
    student, teacher = torch.randn(6, 9), torch.randn(6, 9)
    module = kdfast.nn.TVDistLoss(temperature=3.0)
    assert torch.equal(module(student, teacher), KF.tv_dist(student, teacher, temperature=3.0))


def test_is_at_most_one():
    student, teacher = 100 * torch.eye(4), 100 * torch.eye(4).roll(1, 0)
    torch.testing.assert_close(KF.tv_dist(student, teacher, reduction="none"), torch.ones(4))

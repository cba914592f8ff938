"""kl_div: the first room, and with it what every room stands on."""

import divergence_checks as checks
import pytest
import torch

import kdfast
import kdfast.functional as KF
from kdfast.ops.kl_div import kl_div_reference


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    checks.agrees_with_definition(KF.kl_div, kl_div_reference, place, dtype)


def test_vectors(place):
    checks.matches_vectors(KF.kl_div, "kl_div", place)


def test_accurate_near_convergence(place):
    checks.accurate_near_convergence(KF.kl_div, kl_div_reference, place)


def test_any_range(place):
    checks.survives_any_range(KF.kl_div, kl_div_reference, place)


def test_accurate_in_bfloat16(place):
    checks.accurate_in_bfloat16(KF.kl_div, place)


def test_rows_that_do_not_count(place):
    checks.handles_rows_that_do_not_count(KF.kl_div, place)


def test_works_with_pytorch(place):
    checks.works_with_pytorch(KF.kl_div, place)


def test_opcheck(need):
    need.backend("native")
    checks.passes_opcheck(torch.ops.kdfast.kl_div, "cpu", 0.0)


def test_bad_input():
    checks.refuses_bad_input(KF.kl_div)


def test_definition_is_that_of_torch():
    student, teacher = torch.randn(6, 9, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    plain = torch.nn.functional.kl_div(
        (student / 3).log_softmax(1), (teacher / 3).log_softmax(1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(kl_div_reference(student, teacher, temperature=3.0), 9 * plain)


def test_module():
    student, teacher, mask = torch.randn(6, 9), torch.randn(6, 9), torch.arange(6) < 4
    module = kdfast.nn.KLDivLoss(temperature=3.0, reduction="mean")
    expected = KF.kl_div(student, teacher, temperature=3.0, reduction="mean", mask=mask)
    assert torch.equal(module(student, teacher, mask=mask), expected)
    assert isinstance(module, torch.nn.modules.loss._Loss)
    assert "temperature=3.0" in repr(module) and "mask" not in repr(module)
    with pytest.raises(TypeError, match="no option 'temprature'"):
        kdfast.nn.KLDivLoss(temprature=3.0)

"""dice_diversity: how much masks overlap."""

import pytest
import torch
from check import Case, check_op
from feature_checks import (
    DTYPES,
    gradcheck,
    near,
    noise,
    refuses,
    size,
    value_and_grads,
    works_with_pytorch,
)
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.dice_diversity import FORMS, dice_diversity_reference

OP = "dice_diversity"


@pytest.mark.parametrize(
    "shape, phase, form, value, grad",
    [
        ((2, 3, 3, 5), 1.5, "ratio_of_sums", 1.284302031, 3.693979034),
        ((2, 3, 3, 5), 1.5, "pairwise_mean", 0.6405361186, 1.847679622),
        ((2, 3, 4), 1.0, "ratio_of_sums", 1.235686787, 4.004804257),
        ((2, 3, 4), 1.0, "pairwise_mean", 0.6102398743, 2.060244875),
    ],
)
def test_vector_2(place, shape, phase, form, value, grad):
    masks = wave(shape, 2.0, phase).sigmoid().to(place)
    ours, (ours_grad,) = value_and_grads(lambda m: KF.dice_diversity(m, form=form), masks)
    near(ours, value), near(size(ours_grad), grad)


@pytest.mark.parametrize("count", [2, 6, 19])
def test_identical_masks(place, count):
    masks = noise((2, 1, 5, 4)).sigmoid().expand(2, count, 5, 4).to(place)
    near(KF.dice_diversity(masks), count - 1)
    near(KF.dice_diversity(masks, form="pairwise_mean"), 1)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_to_compare_is_zero(place, form):
    for masks in (torch.rand(2, 1, 5), torch.zeros(2, 3, 5), torch.rand(0, 3, 5), torch.rand(2, 0, 5)):
        value, (grad,) = value_and_grads(lambda m: KF.dice_diversity(m, form=form), masks.to(place))
        assert value == 0 and not grad.any() and not grad.isnan().any()


def cases(dtype):
    for shape in ((1, 2, 1), (2, 6, 7, 10), (3, 19, 33), (1, 6, 50, 41), (2, 3)):
        for form in FORMS:
            yield Case(f"{shape} {form}", (noise(shape, dtype).sigmoid(),), (), {"form": form})
    yield Case("strides", (noise((2, 5, 6, 8), dtype).sigmoid().transpose(2, 3)[..., ::2],))
    yield Case(
        "zero mask among others",
        (noise((2, 5, 6), dtype).sigmoid() * torch.tensor([1, 0, 1, 1, 1], dtype=dtype)[:, None],),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.dice_diversity, dice_diversity_reference, cases(dtype), place)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(place, form):
    gradcheck(lambda m: KF.dice_diversity(m, form=form), noise((2, 4, 7)).sigmoid().to(place))
    works_with_pytorch(
        lambda m: KF.dice_diversity(m, form=form), noise((2, 4, 7), torch.float32).sigmoid().to(place)
    )


def test_bad_input_and_module():
    refuses(ValueError, "form must be one of", KF.dice_diversity, torch.rand(2, 3, 4), form="sum")
    refuses(ValueError, "masks must be", KF.dice_diversity, torch.rand(3))
    refuses(TypeError, "masks must be float", KF.dice_diversity, torch.ones(2, 3, 4, dtype=torch.bool))
    masks = torch.rand(2, 3, 4)
    assert torch.equal(
        kdfast.nn.DiceDiversityLoss(form=FORMS[1])(masks), KF.dice_diversity(masks, form=FORMS[1])
    )


@pytest.mark.parametrize("form", ["ratio_of_sums", "pairwise_mean"])
@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-17, 1e-25, 1e-38, 1e-44, 0.0])
def test_shrunken_masks_keep_their_overlap_or_count_as_zeros(form, scale):
    """Training may shrink masks until their squares underflow: never NaN, in value and gradient."""
    torch.manual_seed(0)
    masks = torch.rand(2, 6, 40)
    want = KF.dice_diversity(masks, form=form)
    small = (masks * scale).requires_grad_()
    found = KF.dice_diversity(small, form=form)
    found.backward()
    assert small.grad.isfinite().all()
    if scale > 1e-18:
        torch.testing.assert_close(found, want)
    assert 0 <= found <= want * 1.01
    uneven = torch.rand(2, 6, 40)
    uneven[:, 1:] *= scale
    uneven.requires_grad_()
    KF.dice_diversity(uneven, form=form).backward()
    assert uneven.grad.isfinite().all()

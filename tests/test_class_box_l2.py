"""class_box_l2: Dynamic Y-KD's term on class-specific box deltas."""

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

import kdfast.functional as KF
from kdfast.ops.class_box_l2 import class_box_l2_reference

OP = "class_box_l2"


def test_vector(place):
    t, s = wave((4, 3, 4), 1.0, 0.7).to(place), wave((4, 5, 4), 1.0, 1.1).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.class_box_l2(s, t), s)
    near(value, 3.93726435598, 1e-11), near(size(grad), 6.43079391489, 1e-11)
    assert not grad[:, 0].any() and not grad[:, 3:].any()
    gradcheck(lambda s: KF.class_box_l2(s, t), s)


RESTS = ((4,),)


def cases(dtype):
    """Proposals, the student's classes, the teacher's; then strides."""
    for rows, new, old in ((0, 5, 3), (1, 2, 2), (3, 5, 3), (7, 21, 20), (2, 40, 9)):
        for rest in RESTS:
            yield Case(f"{rows} {new} {old} {rest}", (noise((rows, new, *rest), dtype),),
                       (noise((rows, old, *rest), dtype, 1),))  # fmt: skip
    s, t = noise((3, 6, *RESTS[-1]), dtype), noise((3, 6, *RESTS[-1]), dtype, 1)
    yield Case("rows far apart", (s[::2],), (t[::2, :4],))
    yield Case("every other class", (s[:, ::2],), (t[:, 1::2],))
    yield Case("turned", (s.mT.contiguous().mT,), (t[:, :5].mT.contiguous().mT,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.class_box_l2, class_box_l2_reference, cases(dtype), place)


def test_nothing_to_compare_is_zero(place):
    s, t = noise((0, 5, *RESTS[0])).to(place), noise((0, 3, *RESTS[0])).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.class_box_l2(s, t), s)
    assert value == 0 and grad.shape == s.shape
    s = noise((2, 3, 4)).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.class_box_l2(s, s[:, :1].detach()), s)  # background alone
    assert value == 0 and not grad.any()


def test_works_with_pytorch(place):
    s, t = (noise((3, n, *RESTS[0]), torch.float32, n).to(place) for n in (5, 3))
    works_with_pytorch(lambda s: KF.class_box_l2(s, t), s)


def test_opcheck(need):
    need.backend("native")
    s, t = noise((3, 20), torch.float32), noise((3, 12), torch.float32, 1)
    torch.library.opcheck(torch.ops.kdfast.class_box_l2.default, (s, t, True))
    torch.library.opcheck(torch.ops.kdfast.class_box_l2_backward.default, (torch.ones(()), s, t))


def test_bad_input():
    refuses(
        ValueError,
        "at least the teacher's classes",
        KF.class_box_l2,
        torch.rand(2, 3, 4),
        torch.rand(2, 4, 4),
    )
    refuses(ValueError, "4 deltas", KF.class_box_l2, torch.rand(2, 3, 5), torch.rand(2, 3, 5))
    refuses(ValueError, "student must be", KF.class_box_l2, torch.rand(2, 3), torch.rand(2, 3))

"""weighted_mse: squared errors under weights of positions and of channels."""

import pytest
import torch
from check import Case, check_op, interpreted, not_too_large
from feature_checks import DTYPES, gradcheck, noise, refuses, value_and_grads, works_with_pytorch

import kdfast.functional as KF
from kdfast.ops.weighted_mse import weighted_mse_reference

LAYOUTS = {
    "tokens": lambda x: x,
    "maps": lambda x: x.mT.contiguous().mT,
    "apart": lambda x: torch.cat([x, x], 2)[..., ::2],
}


def inputs(shape, dtype=torch.float64):
    s, t = noise(shape, dtype), noise(shape, dtype, 1)
    return (
        s,
        t,
        *(noise((shape[0], n), dtype, k).abs() for n, k in ((shape[1], 2), (shape[2], 3), (shape[2], 4))),
    )


def cases(dtype):
    for layout, to in LAYOUTS.items():
        for shape in ((0, 3, 4), (1, 1, 1), (2, 70, 9), (2, 65, 256), (1, 2100, 5), (3, 7, 2100)):
            s, t, a, b, gain = inputs(shape, dtype)
            yield Case(f"{layout} {shape}", (to(s), a, b), (to(t), gain))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    def call(function):
        return lambda s, a, b, t, gain: function(s, t, position=a, channel=b, gain=gain)

    check_op(call(KF.weighted_mse), call(weighted_mse_reference), not_too_large(cases(dtype)), place)


@pytest.mark.parametrize("upstream", [(1.0, 1.0), (3.0, 3.0), (0.5, 2.0), (1.0, 0.0)])
def test_upstream_gradients_need_not_be_equal(place, upstream):
    for to in LAYOUTS.values():
        s, t, a, b, gain = (x.to(place) for x in inputs((2, 6, 5)))
        s, t = to(s), to(t)

        def total(function):
            values = lambda s: function(s, t, position=a, channel=b, gain=gain)  # noqa: B023, E731
            return value_and_grads(lambda s: sum(u * v for u, v in zip(upstream, values(s), strict=True)), s)  # noqa: B023

        torch.testing.assert_close(total(KF.weighted_mse), total(weighted_mse_reference))


def test_a_weight_of_zero_drops_what_is_not_a_number(place):
    for to in LAYOUTS.values():
        s, t, a, *_ = (x.to(place) for x in inputs((2, 6, 5)))
        a[:, 4:] = 0
        expected = value_and_grads(lambda s, t=t, a=a: KF.weighted_mse(to(s), to(t), position=a)[0], s)  # noqa: B023
        s[:, 4], t[:, 5] = torch.nan, torch.inf
        ours = value_and_grads(lambda s, t=t, a=a: KF.weighted_mse(to(s), to(t), position=a)[0], s)  # noqa: B023
        torch.testing.assert_close(ours, expected)


def test_gradients(place):
    s, t, a, b, v = (x.to(place) for x in inputs((2, 6, 5)))
    for gain in (v,) if interpreted() else (None, v):
        gradcheck(
            lambda s, a, b, gain=gain: torch.stack(KF.weighted_mse(s, t, position=a, channel=b, gain=gain)),
            s,
            a,
            b,
        )
    a[:, 2] = 0
    gradcheck(lambda a: KF.weighted_mse(s, t, position=a)[0], a)
    works_with_pytorch(
        lambda s: sum(KF.weighted_mse(s, t.float(), position=a.float(), channel=b.float())), s.float()
    )


def test_opcheck(need):
    need.backend("native")
    s, t, a, b, _ = inputs((2, 6, 5), torch.float32)
    for options in ((a, None), (None, b), (a, b)):
        torch.library.opcheck(torch.ops.kdfast.weighted_mse.default, (s, t, *options, None, True))
        one = torch.ones(())
        torch.library.opcheck(
            torch.ops.kdfast.weighted_mse_backward.default, (one, one, s, t, *options, None)
        )
        redo = torch.ops.kdfast.weighted_mse_redo_.default
        torch.library.opcheck(redo, (torch.zeros_like(s), one, 2 * one, s, t, *options, None))


def test_bad_input():
    s, t, a, b, _ = inputs((2, 6, 5))
    refuses(ValueError, "same shape", KF.weighted_mse, s, t[:1])
    refuses(ValueError, "position must be", KF.weighted_mse, s, t, position=b)
    refuses(ValueError, "channel must be", KF.weighted_mse, s, t, channel=a)
    refuses(ValueError, "student must be", KF.weighted_mse, s[0], t[0])

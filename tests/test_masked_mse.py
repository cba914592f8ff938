"""masked_mse: feature imitation under masks; dice_diversity is tested beside it on the same masks."""

import pytest
import torch
from check import Case, check_op, not_too_large
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
from kdfast.ops.masked_mse import masked_mse_reference


def vector():
    teacher, student = wave((2, 4, 3, 5)), wave((2, 4, 3, 5), 0.7, 0.5)
    channel, spatial = wave((2, 3, 4), 2.0, 1.0).sigmoid(), wave((2, 3, 3, 5), 2.0, 1.5).sigmoid()
    return student, teacher, spatial, channel


def materialised(student, teacher, spatial, channel, eps):
    """The form with [B, M, C, H, W] tensors, as MasKD's code has it."""
    d = (teacher - student).unsqueeze(1)
    wide, deep = spatial.unsqueeze(2), channel[..., None, None]
    count, area = student.size(1), student[0, 0].numel()
    loss_s = ((d * wide) ** 2).sum((2, 3, 4)) / (count * spatial.sum((2, 3)) + eps)
    loss_c = ((d * deep) ** 2).sum((2, 3, 4)) / (area * channel.sum(2) + eps)
    return loss_s.mean(), loss_c.mean()


def test_vector_1(place):
    s, t, spatial, channel = (x.to(place) for x in vector())
    for eps, expected in (
        (
            0,
            (
                0.08044401619,
                0.08650264128,
                0.3984931362,
                0.4288124616,
                0.8273055978,
                0.1400786036,
                0.1457731791,
            ),
        ),
        (
            1e-5,
            (0.0804439878, 0.08650261243, 0.398492996, 0.4288123187, 0.8273053146, 0.140078568, 0.1457731389),
        ),
    ):
        by = [
            value_and_grads(
                lambda s, a, c, pick=pick, eps=eps: pick(*KF.masked_mse(s, t, spatial=a, channel=c, eps=eps)),
                s,
                spatial,
                channel,
            )
            for pick in (lambda a, c: c, lambda a, c: a, lambda a, c: a + c)
        ]
        near(by[0][0], expected[0]), near(by[1][0], expected[1])
        for (_, grads), total in zip(by, expected[2:5], strict=True):
            near(size(grads[0]), total)
        near(size(by[0][1][2]), expected[5]), near(size(by[1][1][1]), expected[6])
        assert not by[0][1][1].any() and not by[1][1][2].any()


def test_golden_identities(place):
    s, t, spatial, channel = (x.to(place) for x in vector())
    mse = (s - t).square().mean()
    for share in (1.0, 0.5):
        both = KF.masked_mse(
            s, t, spatial=torch.full_like(spatial, share), channel=torch.full_like(channel, share), eps=0
        )
        torch.testing.assert_close(torch.stack(both), share * mse.expand(2))
    once = KF.masked_mse(s, t, spatial=spatial, channel=channel, eps=0)
    tenth = KF.masked_mse(s, t, spatial=0.1 * spatial, channel=0.1 * channel, eps=0)
    torch.testing.assert_close(torch.stack(tenth), 0.1 * torch.stack(once))
    near(tenth[1], 0.008044401619), near(tenth[0], 0.008650264128)


def test_the_materialised_form_agrees(place):
    s, t, spatial, channel = (x.to(place) for x in vector())
    total = lambda f: lambda *x: (lambda a, b: 0.7 * a + 1.3 * b)(*f(*x))  # noqa: E731
    ours = value_and_grads(
        total(lambda s, a, c: KF.masked_mse(s, t, spatial=a, channel=c, eps=1e-3)), s, spatial, channel
    )
    plain = value_and_grads(total(lambda s, a, c: materialised(s, t, a, c, 1e-3)), s, spatial, channel)
    torch.testing.assert_close(ours, plain)


def cases(dtype):
    def case(name, shape, masks=3, to=lambda x: x, **keywords):
        b, c, h, w = shape
        s, t = to(noise(shape, dtype)), to(noise(shape, dtype, 1))
        spatial, channel = (
            noise((b, masks, h, w), dtype, 2).sigmoid(),
            noise((b, masks + 1, c), dtype, 3).sigmoid(),
        )

        return Case(name, (s, spatial, channel), (t,), keywords)

    for shape in (
        (0, 3, 2, 2),
        (1, 1, 1, 1),
        (2, 19, 7, 10),
        (1, 256, 13, 19),
        (3, 5, 16, 17),
        (2, 64, 1, 33),
        (1, 7, 50, 41),
    ):
        yield case("x".join(map(str, shape)), shape)
    yield case("one mask", (2, 9, 6, 5), 1)
    yield case("channels last", (2, 40, 6, 9), to=lambda x: x.to(memory_format=torch.channels_last))
    yield case("sliced", (2, 8, 6, 5), to=lambda x: torch.cat([x, x], 3)[..., ::2])
    yield case("rows apart", (2, 8, 6, 5), to=lambda x: torch.cat([x, x], 2)[:, :, :6])
    yield case("eps", (2, 9, 6, 5), eps=0.5)


def call(function):
    return lambda s, spatial, channel, t, **k: function(s, t, spatial=spatial, channel=channel, **k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(call(KF.masked_mse), call(masked_mse_reference), not_too_large(cases(dtype)), place)


def test_absent_and_zero_masks(place):
    s, t, spatial, channel = (x.to(place) for x in vector())
    both = KF.masked_mse(s, t, spatial=spatial, channel=channel)
    assert (
        torch.equal(KF.masked_mse(s, t, spatial=spatial)[0], both[0])
        and KF.masked_mse(s, t, spatial=spatial)[1] == 0
    )
    assert (
        torch.equal(KF.masked_mse(s, t, channel=channel)[1], both[1])
        and KF.masked_mse(s, t, channel=channel)[0] == 0
    )
    value, (grad,) = value_and_grads(lambda s: sum(KF.masked_mse(s, t)), s)
    assert value == 0 and not grad.any()
    zeros = torch.zeros_like(spatial)
    value, grads = value_and_grads(lambda s, m: KF.masked_mse(s, t, spatial=m, eps=0)[0], s, zeros)
    assert value == 0 and not any(g.any() or g.isnan().any() for g in grads)


def test_gradcheck(place):
    s, t, spatial, channel = (x.to(place) for x in vector())
    gradcheck(lambda *x: call(KF.masked_mse)(*x, t), s, spatial, channel)


def test_works_with_pytorch(place):
    s, t, spatial, channel = (x.float().to(place) for x in vector())
    works_with_pytorch(lambda s: sum(KF.masked_mse(s, t, spatial=spatial, channel=channel)), s)
    works_with_pytorch(lambda a: KF.masked_mse(s, t, spatial=a)[0], spatial)


def test_bad_input():
    s, t, spatial, channel = vector()
    refuses(ValueError, "same shape", KF.masked_mse, s, t[:, :3])
    refuses(ValueError, r"spatial must be \[2, masks, 3, 5\]", KF.masked_mse, s, t, spatial=spatial[..., :4])
    refuses(ValueError, "channel must be", KF.masked_mse, s, t, channel=channel[:1])
    refuses(ValueError, "eps must be", KF.masked_mse, s, t, eps=-1.0)
    refuses(TypeError, "spatial must be float", KF.masked_mse, s, t, spatial=spatial > 0.5)
    refuses(ValueError, "student must be", KF.masked_mse, s[0], t[0])


def test_module():
    s, t, spatial, channel = vector()
    module = kdfast.nn.MaskedMSELoss(eps=1e-3)
    expected = KF.masked_mse(s, t, spatial=spatial, channel=channel, eps=1e-3)
    assert torch.equal(torch.stack(module(s, t, spatial=spatial, channel=channel)), torch.stack(expected))

"""The published losses that are composed of kdfast's ops, against the official codes' formulas, in
float64.
"""

import pytest
import torch
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
from torch.nn import functional as F
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops import (
    attention_transfer,
    channel_wise_kl,
    cosine_distance,
    fgd_loss,
    hcl_loss,
    hint_mse,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from kdfast.ops.box_weights import weights_for_loss

BOXES = [torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.3, 0.2, 0.5]]), torch.zeros(0, 4)]


def boxed(function):
    return lambda s, t: function(s, t, [b.to(s.device) for b in BOXES])


MAPS = {
    "attention_transfer": (KF.attention_transfer, attention_transfer.attention_transfer_reference),
    "channel_wise_kl": (KF.channel_wise_kl, channel_wise_kl.channel_wise_kl_reference),
    "hint_mse": (KF.hint_mse, hint_mse.hint_mse_reference),
    "cosine_distance": (
        lambda s, t: KF.cosine_distance(s, t, dim=1),
        lambda s, t: cosine_distance.cosine_distance_reference(s, t, dim=1),
    ),
    "similarity_preserving": (
        KF.similarity_preserving,
        similarity_preserving.similarity_preserving_reference,
    ),
    "rkd_distance": (KF.rkd_distance, rkd_distance.rkd_distance_reference),
    "rkd_angle": (lambda s, t: KF.rkd_angle(s, t, chunk_rows=2), rkd_angle.rkd_angle_reference),
    "hcl_loss": (KF.hcl_loss, hcl_loss.hcl_loss_reference),
    "fgd_loss": (boxed(KF.fgd_loss), boxed(fgd_loss.fgd_loss_reference)),
}  # fmt: skip


def pairwise(x):
    gram = x @ x.t()
    square = gram.diagonal()
    d = (square[None] + square[:, None] - 2 * gram).clamp(min=1e-12).sqrt()
    return d * (1 - torch.eye(len(x), dtype=x.dtype))


def official_rkd_distance(s, t):
    s, t = (pairwise(x.flatten(1)) for x in (s, t))
    return F.smooth_l1_loss(s / s[s > 0].mean(), t / t[t > 0].mean())


def official_rkd_angle(s, t):
    def angles(x):
        x = x.flatten(1)
        e = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(e, e.mT)

    return F.smooth_l1_loss(angles(s), angles(t))


def official_at(s, t):
    q = lambda x: F.normalize(x.pow(2).mean(1).flatten(1))  # noqa: E731
    return (q(s) - q(t)).pow(2).mean()


def official_sp(s, t):
    g = lambda x: F.normalize(x.flatten(1) @ x.flatten(1).t(), dim=1)  # noqa: E731
    return (g(s) - g(t)).pow(2).sum() / len(s) ** 2


def official_cwd(s, t, tau=4.0):
    p = F.softmax(t.flatten(0, 1).flatten(1) / tau, 1)
    log_p, log_q = (F.log_softmax(x.flatten(0, 1).flatten(1) / tau, 1) for x in (t, s))
    return (p * (log_p - log_q)).sum() * tau**2 / (s.size(0) * s.size(1))


def official_fgd(s, t, tau=0.5, alpha=1e-3, beta=5e-4, gamma=1e-3):
    b, c, h, w = s.shape

    def attentions(x):
        spatial = h * w * F.softmax(x.abs().mean(1).flatten(1) / tau, 1).reshape(b, h, w)
        return spatial, c * F.softmax(x.abs().mean((2, 3)) / tau, 1)

    (s_spatial, s_channel), (t_spatial, t_channel) = attentions(s), attentions(t)
    one = {"dtype": torch.float64}
    foreground = weights_for_loss(BOXES, [(h, w)], alpha=1.0, beta=0.0, **one).reshape(b, h, w)
    background = weights_for_loss(BOXES, [(h, w)], alpha=0.0, beta=1.0, **one).reshape(b, h, w)
    scale = t_spatial.sqrt()[:, None] * t_channel.sqrt()[..., None, None]
    parts = [
        F.mse_loss(s * scale * m.sqrt()[:, None], t * scale * m.sqrt()[:, None], reduction="sum") / b
        for m in (foreground, background)
    ]
    mask = ((s_spatial - t_spatial).abs().sum() + (s_channel - t_channel).abs().sum()) / b
    return alpha * parts[0] + beta * parts[1] + gamma * mask


OFFICIAL = {
    "attention_transfer": official_at,
    "channel_wise_kl": official_cwd,
    "hint_mse": F.mse_loss,
    "cosine_distance": lambda s, t: 1 - F.cosine_similarity(s, t, dim=1).mean(),
    "similarity_preserving": official_sp,
    "rkd_distance": official_rkd_distance,
    "rkd_angle": official_rkd_angle,
    "fgd_loss": official_fgd,
}


@pytest.mark.parametrize("name", MAPS)
def test_agrees_with_definition_and_official_code(place, name):
    ours, reference = MAPS[name]
    shape = (2, 6, 9, 10) if name == "fgd_loss" else (5, 6, 9, 10)
    s, t = noise(shape).to(place), noise(shape, seed=1).to(place)
    found = value_and_grads(lambda s: ours(s, t), s)
    torch.testing.assert_close(found, value_and_grads(lambda s: reference(s, t), s))
    if name in OFFICIAL and place == "cpu":
        torch.testing.assert_close(
            found, value_and_grads(lambda s: OFFICIAL[name](s, t), s), rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("name", MAPS)
def test_works_with_pytorch(place, name):
    ours, _ = MAPS[name]
    s, t = noise((2, 3, 5, 6)).to(place), noise((2, 3, 5, 6), seed=1).to(place)
    gradcheck(lambda s: ours(s, t), s)
    works_with_pytorch(lambda s: ours(s, t.float()), s.float())


@pytest.mark.parametrize("name", [n for n in MAPS if n != "fgd_loss"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_batches_and_dtypes(place, name, dtype):
    ours, _ = MAPS[name]
    for batch in (0, 1, 3):
        s, t = noise((batch, 3, 5, 6), dtype).to(place), noise((batch, 3, 5, 6), torch.float32, 1).to(place)
        value, (grad,) = value_and_grads(lambda s, t=t: ours(s, t), s)
        assert (
            value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            and grad.dtype == dtype
        )
        assert value.isfinite() and grad.isfinite().all() and (batch or value == 0)


@pytest.mark.parametrize(
    "shape, value, grad",
    [
        ((2, 3, 8, 8), 0.07342316095, 0.3927949043),
        ((2, 3, 3, 5), 0.07787757342, 0.4122841598),
        ((2, 3, 1, 1), 0.1208716977, 0.5889887997),
    ],
)
def test_hcl_vector(place, shape, value, grad):
    s, t = wave(shape).to(place), wave(shape, 0.8, 0.5).to(place)
    ours, (ours_grad,) = value_and_grads(lambda s: KF.hcl_loss(s, t), s)
    near(ours, value), near(size(ours_grad), grad)


def test_bad_input():
    x = torch.rand(2, 3, 4, 4)
    refuses(ValueError, "must agree", KF.attention_transfer, x, torch.rand(2, 5, 4, 5))
    refuses(ValueError, "one batch", KF.rkd_distance, x, x[:1])
    refuses(ValueError, "chunk_rows", KF.rkd_angle, x, x, chunk_rows=0)
    refuses(ValueError, "student must be", KF.channel_wise_kl, x[0], x[0])
    refuses(ValueError, "power must be", KF.attention_transfer, x, x, power=0.0)
    refuses(ValueError, "alpha must be", KF.fgd_loss, x[:0], x[:0], [], alpha=-1.0)
    refuses(ValueError, "student must be at least 1", KF.fgd_loss, x[..., :0], x[..., :0], BOXES)
    refuses(ValueError, "distance must be", kdfast.nn.RKDLoss, -1.0)
    refuses(TypeError, "angle must be", kdfast.nn.RKDLoss, 1.0, "a")
    refuses(ValueError, "ratio must be", kdfast.nn.MGDLoss, 3, 4, ratio=2.0)
    refuses(ValueError, "over must be", kdfast.nn.MGDLoss, 3, 4, over="rows")
    refuses(ValueError, "student_channels must be", kdfast.nn.MGDLoss, 0, 4)


def test_modules():
    s, t = noise((2, 3, 5, 6), torch.float32), noise((2, 3, 5, 6), torch.float32, 1)
    nn = kdfast.nn
    assert torch.equal(nn.AttentionTransferLoss()(s, t), KF.attention_transfer(s, t))
    assert torch.equal(nn.ChannelWiseKLLoss(temperature=2.0)(s, t), KF.channel_wise_kl(s, t, temperature=2.0))
    assert torch.equal(nn.HintMSELoss()(s, t), KF.hint_mse(s, t)) and torch.equal(
        nn.HCLLoss()(s, t), KF.hcl_loss(s, t)
    )
    assert torch.equal(nn.CosineDistanceLoss(dim=1)(s, t), KF.cosine_distance(s, t, dim=1))
    assert torch.equal(nn.SimilarityPreservingLoss()(s, t), KF.similarity_preserving(s, t))
    assert torch.equal(nn.FGDLoss()(s, t, BOXES), KF.fgd_loss(s, t, BOXES))
    near(nn.RKDLoss(1.0, 2.0)(s, t), float(KF.rkd_distance(s, t) + 2 * KF.rkd_angle(s, t)))
    loss = nn.MGDLoss(3, 4)(s, noise((2, 4, 5, 6), torch.float32, 2))
    loss.backward()
    assert loss.isfinite()

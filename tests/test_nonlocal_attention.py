"""nonlocal_attention, and CanKD's block and loss on top of it."""

import pytest
import torch
import torch.nn.functional as F
from check import Case, check_op
from feature_checks import DTYPES, gradcheck, noise, refuses, works_with_pytorch

import kdfast.functional as KF
import kdfast.nn
from kdfast.ops.nonlocal_attention import nonlocal_attention_reference


def inputs(batch=2, width=5, queries=35, keys=20, channels=7, dtype=torch.float64):
    return (
        noise((batch, width, queries), dtype),
        noise((batch, width, keys), dtype, 1),
        noise((batch, channels, keys), dtype, 2),
    )


def cases(dtype):
    for shape in (
        (0, 3, 4, 5, 2),
        (1, 1, 1, 1, 1),
        (2, 5, 35, 20, 7),
        (1, 64, 49, 196, 64),
        (1, 16, 400, 300, 8),
    ):
        for associate in (None, True, False):
            yield Case(f"{shape} {associate}", inputs(*shape, dtype), (), {"associate": associate}, 1e-11)
    yield Case("channels last", tuple(x.mT.contiguous().mT for x in inputs(dtype=dtype)), (), {}, 1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_definition(place, dtype):
    check_op(KF.nonlocal_attention, nonlocal_attention_reference, cases(dtype), place)


def test_the_definition_by_hand():
    q, k, v = inputs(1, 2, 3, 4, 2)
    expected = torch.stack(
        [sum((q[0, :, i] @ k[0, :, j]) * v[0, :, j] for j in range(4)) / 4 for i in range(3)], 1
    )
    torch.testing.assert_close(nonlocal_attention_reference(q, k, v)[0], expected)


def test_with_pytorch(place):
    q, k, v = (x.to(place) for x in inputs(dtype=torch.float32))
    works_with_pytorch(lambda q: KF.nonlocal_attention(q, k, v).square().sum(), q)
    gradcheck(lambda *x: KF.nonlocal_attention(*x, associate=True), *inputs(1, 2, 5, 4, 3))


def test_bad_input():
    q, k, v = inputs()
    call = KF.nonlocal_attention
    refuses(TypeError, "query must be a tensor", call, None, k, v)
    refuses(ValueError, r"key must be \[batch, channels, positions\]", call, q, k[0], v)
    refuses(ValueError, "key must have the query's batch and channels", call, q, k[:, 1:], v)
    refuses(ValueError, "value must have the key's batch and positions", call, q, k, v[..., 1:])
    refuses(ValueError, "at least one channel and position", call, q[..., :0], k, v)
    refuses(TypeError, "associate must be True or False", call, q, k, v, associate=1)


# ---- CanKD


def by_equations(loss, student, teacher):
    """Equation by equation, with the map [B, N, L] in memory and torch's own norms."""
    block = loss.fusion
    pool = lambda x: F.max_pool2d(x, block.kv_pool).flatten(2)  # noqa: E731
    theta, phi, g = block.theta(student).flatten(2), pool(block.phi(teacher)), pool(block.g(teacher))
    seen = (theta.mT @ phi / phi.size(2)) @ g.mT
    lifted = student + block.out(seen.mT.unflatten(2, student.shape[2:]))
    return F.mse_loss(F.instance_norm(lifted), F.instance_norm(teacher)) / 2


@pytest.mark.parametrize("batch_norm", [True, False])
def test_cankd_agrees_with_its_equations(batch_norm):
    torch.manual_seed(0)
    loss = kdfast.nn.CanKDLoss(6, batch_norm=batch_norm).double()
    student, teacher = noise((2, 6, 8, 6)).requires_grad_(), noise((2, 6, 8, 6), seed=1)
    start = loss(student, teacher)
    expected = F.mse_loss(F.instance_norm(student), F.instance_norm(teacher)) / 2
    torch.testing.assert_close(start, expected)  # the block starts as the identity
    with torch.no_grad():
        for parameter in loss.fusion.out.parameters():
            parameter.normal_(0, 0.5)
    ours, plain = loss(student, teacher), by_equations(loss, student, teacher)
    torch.testing.assert_close(ours, plain)
    parameters = [student, *loss.parameters()]
    torch.testing.assert_close(torch.autograd.grad(ours, parameters), torch.autograd.grad(plain, parameters))


def test_cankd_teacher_is_constant_and_small_maps_work():
    loss = kdfast.nn.CanKDLoss(4, kv_pool=1)
    student, teacher = (
        noise((2, 4, 1, 1), torch.float32),
        noise((2, 4, 1, 1), torch.float32, 1).requires_grad_(),
    )
    assert float(loss(student, teacher)) == 0
    value = kdfast.nn.CanKDLoss(4)(noise((2, 4, 4, 4)).float().requires_grad_(), noise((2, 4, 4, 4)).float())
    assert value.requires_grad
    assert torch.autograd.grad(loss(student.requires_grad_(), teacher), [teacher], allow_unused=True) == (
        None,
    )


def test_cankd_refuses():
    make = kdfast.nn.CanKDLoss
    refuses(ValueError, "inner_channels must be at least 1", make, 4, 0)
    refuses(ValueError, "kv_pool must be at least 1", make, 4, kv_pool=0)
    loss, x = make(4), noise((2, 4, 4, 4), torch.float32)
    refuses(ValueError, r"student must be \[batch, 4, height, width\]", loss, x[:, :3], x)
    refuses(ValueError, "the same batch", loss, x[:1], x)
    refuses(ValueError, "the same shape", loss, x, x[..., :2])
    refuses(ValueError, "at least 2 high and wide", loss, x[..., :1], x[..., :1])

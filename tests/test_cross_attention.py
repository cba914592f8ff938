"""cross_attention, and CrossAttentionProjector (ScaleKD's CAP) on top of it."""

import pytest
import torch
import torch.nn.functional as F
from check import Case, check_op
from feature_checks import DTYPES, gradcheck, noise, refuses, works_with_pytorch

import kdfast.functional as KF
import kdfast.nn
from kdfast.ops.cross_attention import cross_attention_reference


def inputs(kind_q, kind_k, dtype=torch.float64, batch=2):
    shapes = {"tokens": (batch, 12, 8), "map": (batch, 8, 3, 4), "other map": (batch, 8, 5, 2)}
    query, key = noise(shapes[kind_q], dtype), noise(shapes[kind_k], dtype, 1)
    wide = (batch, 12, 6) if kind_k == "tokens" else (batch, 6, *shapes[kind_k][2:])
    return query, key, noise(wide, dtype, 2)


def cases(dtype):
    for kinds in (("tokens", "tokens"), ("map", "map"), ("tokens", "other map"), ("map", "tokens")):
        yield Case(", ".join(kinds), inputs(*kinds, dtype), (), {"num_heads": 2}, 1e-12)
    yield Case("scale", inputs("map", "map", dtype), (), {"scale": 1.7}, 1e-12)
    q, k, v = inputs("map", "other map", dtype)
    positions = {
        "query_position": noise((1, *q.shape[1:]), dtype, 3),
        "key_position": noise(k.shape, dtype, 4),
    }
    yield Case("positions", (q, k, v), (), positions, 1e-12)
    mask = torch.arange(10).remainder(3).ne(0).expand(2, 10).clone()
    mask[1] = False
    yield Case("keys", (q, k, v), (), {"key_mask": mask}, 1e-12)
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in (q, k, v))
    yield Case("channels last", last, (), {}, 1e-12)
    yield Case("empty batch", inputs("tokens", "map", dtype, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_definition(place, dtype):
    check_op(KF.cross_attention, cross_attention_reference, cases(dtype), place)


def test_the_definition_agrees_with_multi_head_attention():
    """torch's own layer, with identities for its projections."""
    layer = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(8).repeat(3, 1)), layer.out_proj.weight.copy_(torch.eye(8))
    q, k, v = noise((2, 5, 8)), noise((2, 7, 8), seed=1), noise((2, 7, 8), seed=2)
    torch.testing.assert_close(cross_attention_reference(q, k, v, num_heads=2), layer(q, k, v)[0])


def test_positions_and_dropped_tokens():
    q, k, v = inputs("tokens", "map")
    position = noise((1, 12, 8), seed=5).requires_grad_()
    ours = KF.cross_attention(q, k, v, query_position=position)
    torch.testing.assert_close(ours, KF.cross_attention(q + position, k, v))
    (grad,) = torch.autograd.grad(ours.square().sum(), position)
    assert grad.shape == position.shape and grad.any()
    mask = torch.arange(12).ne(3).expand(2, 12)
    holes = [x.flatten(2).masked_fill(~mask.unsqueeze(1), torch.nan).unflatten(2, (3, 4)) for x in (k, v)]
    leaf = q.clone().requires_grad_()
    out = KF.cross_attention(leaf, *holes, key_mask=mask)
    torch.testing.assert_close(out, KF.cross_attention(q, k, v, key_mask=mask))
    assert torch.autograd.grad(out.sum(), leaf)[0].isfinite().all()


def test_with_pytorch():
    q, k, v = inputs("map", "map", torch.float32)
    works_with_pytorch(lambda q: KF.cross_attention(q, k, v, num_heads=2).square().sum(), q)
    gradcheck(lambda *x: KF.cross_attention(*x, num_heads=2), *inputs("map", "other map"))


def test_bad_input():
    q, k, v = inputs("tokens", "tokens")
    call = KF.cross_attention
    refuses(TypeError, "key must be a tensor", call, q, None, v)
    refuses(ValueError, "query must be tokens", call, q[0], k, v)
    refuses(ValueError, "value must not be empty", call, q, k, v[:, :0])
    refuses(ValueError, "key must have the query's batch and channels", call, q, k[..., :4], v)
    refuses(ValueError, "value must be like key", call, q, k, v[:, 1:])
    refuses(ValueError, "num_heads must divide query's 8 channels", call, q, k, v, num_heads=3)
    refuses(ValueError, "num_heads must divide value's 6 channels", call, q, k, v, num_heads=4)
    refuses(ValueError, "query_position must have shape", call, q, k, v, query_position=q[:, 1:])
    refuses(ValueError, "key_mask must be", call, q, k, v, key_mask=torch.ones(2, 3, dtype=torch.bool))
    refuses(ValueError, "scale must be", call, q, k, v, scale=-1)


# ---- The projector


def projector(**options):
    torch.manual_seed(0)
    return kdfast.nn.CrossAttentionProjector(6, 8, (3, 5), (2, 2), num_heads=2, **options).double()


def by_equations(module, x, queries):
    """ScaleKD's CAP, equation by equation, with the maps in memory."""
    u = (F.relu(module.norm(module.conv(x))) + module.position).flatten(2).mT
    q = module.query(F.relu(module.query_embedding(queries)))
    heads = lambda y: y.unflatten(2, (2, 4)).transpose(1, 2)  # noqa: E731
    a = (heads(q) @ heads(module.key(u)).mT * 4**-0.5 * 5.0).softmax(-1)
    y = module.out_norm(module.out((a @ heads(module.value(u))).transpose(1, 2).flatten(2)))
    return y + module.ffn(y)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("given", [False, True])
def test_projector_agrees_with_its_equations(norm, given):
    module = projector(norm=norm)
    x, queries = noise((2, 6, 3, 5)), noise((2, 4, 8), seed=1)
    expected = by_equations(module, x, queries if given else module.queries.expand(2, -1, -1))
    torch.testing.assert_close(module(x, queries if given else None), expected)


def test_projector_gradients_reach_everything():
    module = projector(learned_queries=False)
    x, queries = noise((2, 6, 3, 5)).requires_grad_(), noise((2, 4, 8), seed=1).requires_grad_()
    grads = torch.autograd.grad(module(x, queries).square().sum(), [x, queries, *module.parameters()])
    assert all(grad.isfinite().all() for grad in grads) and grads[0].any() and grads[1].any()
    assert module.queries is None and "queries" not in module.state_dict()


def test_projector_under_autocast_and_compile():
    module = projector().float()
    x = noise((2, 6, 3, 5), torch.float32)
    expected = module.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(x).float(), expected, rtol=0.1, atol=0.1)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x), expected)
    assert module(x[:0]).shape == (0, 4, 8)


def test_projector_refuses():
    make = kdfast.nn.CrossAttentionProjector
    refuses(ValueError, "num_heads must divide dim", make, 6, 8, (3, 5), (2, 2), num_heads=3)
    refuses(ValueError, "norm must be one of batch, layer", make, 6, 8, (3, 5), (2, 2), norm="group")
    refuses(TypeError, "in_size must be", make, 6, 8, 3, (2, 2))
    refuses(ValueError, "query_size must be at least 1", make, 6, 8, (3, 5), 0)
    module = projector(learned_queries=False)
    refuses(ValueError, r"x must be \[batch, 6, 3, 5\]", module, noise((2, 6, 5, 3)))
    refuses(ValueError, "queries must be given", module, noise((2, 6, 3, 5)))
    refuses(ValueError, r"queries must be \(2, 4, 8\)", module, noise((2, 6, 3, 5)), noise((2, 5, 8)))

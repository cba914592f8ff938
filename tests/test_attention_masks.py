"""attention_masks: cross-attention of narrow values and the attention map's mean."""

import pytest
import torch
from check import Case, check_op, interpreted
from feature_checks import DTYPES, gradcheck, noise, peak_bytes, refuses, works_with_pytorch

import kdfast
import kdfast.functional as KF
from kdfast.ops import attention_masks as room
from kdfast.ops.attention_masks import attention_masks_reference

OP = "attention_masks"


def inputs(batch, width, queries, keys, masks, dtype=torch.float64, spread=1.0):
    """Query, key, value."""
    return (
        spread * noise((batch, width, queries), dtype),
        spread * noise((batch, width, keys), dtype, 1),
        noise((batch, masks, keys), dtype, 2),
    )


def by_hand(query, key, value, scale, query_mask, key_mask):
    """Another definition: sums of exponentials, position by position, in a loop over the images."""
    outs, means = [], []
    for b in range(query.size(0)):
        weight = (scale * torch.einsum("dn,dl->nl", query[b], key[b])).exp()
        weight = weight * key_mask[b] * query_mask[b].unsqueeze(1)
        total = weight.sum(1, keepdim=True)
        a = weight / torch.where(total == 0, 1, total)
        outs.append(torch.einsum("ml,nl->mn", value[b], a))
        means.append(a.sum(0) / max(1, int(query_mask[b].sum())))
    return torch.stack(outs), torch.stack(means)


def masks_of(batch, queries, keys):
    """Some positions valid; of the last image of several, none."""
    query_mask = torch.arange(queries).remainder(3).ne(1).expand(batch, queries).clone()
    key_mask = torch.arange(keys).remainder(4).ne(2).expand(batch, keys).clone()
    if batch > 2:
        key_mask[-1] = False
    return query_mask, key_mask


def test_the_definition_agrees_with_sums_of_exponentials():
    q, k, v = inputs(3, 5, 11, 7, 4)
    query_mask, key_mask = masks_of(3, 11, 7)
    ours = attention_masks_reference(q, k, v, scale=0.3, query_mask=query_mask, key_mask=key_mask)
    torch.testing.assert_close(ours, by_hand(q, k, v, 0.3, query_mask, key_mask))
    assert not ours[0][-1].any() and not ours[1][-1].any()


def cases(dtype):
    rounding = 1e-12 if dtype == torch.float64 else 1e-7  # of the logits' gradient, where A (P - D) cancels

    def case(name, shape, to=lambda x: x, spread=1.0, **keywords):
        return Case(name, tuple(map(to, inputs(*shape, dtype, spread))), (), keywords, rounding)

    shapes = ((0, 4, 3, 3, 2), (1, 1, 1, 1, 1), (2, 9, 35, 35, 19), (1, 130, 9, 65, 70))
    if not interpreted():
        shapes += ((1, 128, 247, 247, 6), (2, 19, 70, 33, 3), (1, 64, 17, 130, 20), (3, 32, 65, 64, 1))
    for shape in shapes:
        yield case("x".join(map(str, shape)), shape)
    yield case("scale", (2, 8, 20, 30, 5), scale=0.7)
    yield case("peaky", (2, 16, 40, 50, 5), spread=5.0)
    yield case("channels last", (2, 16, 40, 50, 5), lambda x: x.mT.contiguous().mT)
    yield case("sliced", (2, 16, 40, 50, 5), lambda x: torch.cat([x, x], 2)[:, :, ::2])
    query_mask, key_mask = masks_of(3, 21, 18)
    yield case("valid queries", (3, 6, 21, 18, 4), query_mask=query_mask)
    yield case("valid keys", (3, 6, 21, 18, 4), key_mask=key_mask)
    yield case("valid both", (3, 6, 21, 18, 4), query_mask=query_mask, key_mask=key_mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_definition(place, dtype):
    check_op(KF.attention_masks, attention_masks_reference, cases(dtype), place)


def test_chunks_agree_with_the_whole(monkeypatch):
    """The definition by chunks of queries, as it runs where there is no kernel."""
    query_mask, key_mask = masks_of(3, 21, 18)
    q, k, v = (x.requires_grad_() for x in inputs(3, 6, 21, 18, 4))
    for keywords in ({}, {"query_mask": query_mask, "key_mask": key_mask}):
        with kdfast.use("reference"):
            whole = KF.attention_masks(q, k, v, **keywords)
            monkeypatch.setattr(room, "CHUNK", 3 * 18 * 5)
            parts = KF.attention_masks(q, k, v, **keywords)
            monkeypatch.undo()
        torch.testing.assert_close(parts, whole)
        total = lambda pair: pair[0].sum() + (pair[1] ** 2).sum()  # noqa: E731
        ours, plain = (torch.autograd.grad(total(pair), (q, k, v)) for pair in (parts, whole))
        torch.testing.assert_close(ours, plain)


def test_rows_sum_to_one_and_constants_pass(place):
    q, k, v = (x.to(place) for x in inputs(2, 9, 35, 20, 3))
    out, mean = KF.attention_masks(q, k, torch.ones_like(v))
    torch.testing.assert_close(out, torch.ones_like(out))
    torch.testing.assert_close(mean.sum(1), torch.ones_like(mean[:, 0]))


def test_a_shift_of_the_keys_changes_nothing(place):
    """The gradient of the keys' bias is zero."""
    q, k, v = (x.to(place) for x in inputs(2, 9, 35, 20, 3))
    bias = torch.randn(9, 1, dtype=k.dtype, device=place, requires_grad=True)
    out, mean = KF.attention_masks(q, k + bias, v)
    (grad,) = torch.autograd.grad(out.square().sum() + mean.square().sum(), bias)
    assert grad.abs().max() < 1e-12


def test_what_is_dropped_is_harmless(place):
    query_mask, key_mask = masks_of(3, 21, 18)
    q, k, v = inputs(3, 6, 21, 18, 4)
    expected = attention_masks_reference(q, k, v, query_mask=query_mask, key_mask=key_mask)
    q = q.masked_fill(~query_mask.unsqueeze(1), torch.nan).to(place).requires_grad_()
    k, v = (x.masked_fill(~key_mask.unsqueeze(1), torch.nan).to(place).requires_grad_() for x in (k, v))
    keywords = {"query_mask": query_mask.to(place), "key_mask": key_mask.to(place)}
    ours = KF.attention_masks(q, k, v, **keywords)
    torch.testing.assert_close([x.cpu() for x in ours], list(expected))
    for grad in torch.autograd.grad(ours[0].sum() + ours[1].square().sum(), (q, k, v)):
        assert not grad.isnan().any()
    keywords["query_mask"] = torch.zeros_like(keywords["query_mask"])
    nothing = KF.attention_masks(q, k, v, **keywords)
    assert not nothing[0].any() and not nothing[1].any()


# Triton's interpreter takes a tenth of a second a call, and gradcheck makes hundreds.
GRADCHECK_SHAPES = ((1, 3, 1, 1, 2), (1, 2, 3, 2, 2))
if not interpreted():
    GRADCHECK_SHAPES += ((2, 4, 5, 7, 3), (1, 2, 13, 19, 2))


@pytest.mark.parametrize("shape", GRADCHECK_SHAPES, ids=str)
def test_gradcheck(place, shape):
    query_mask, key_mask = (x.to(place) for x in masks_of(shape[0], shape[2], shape[3]))
    masks = {"query_mask": query_mask, "key_mask": key_mask} if shape[2] > 1 else {}
    inputs_here = [x.to(place) for x in inputs(*shape)]
    gradcheck(lambda q, k, v: KF.attention_masks(q, k, v, **masks), *inputs_here)
    if masks and not interpreted():
        gradcheck(KF.attention_masks, *inputs_here)


def test_the_ops_keep_torch_rules(need):
    """Schema, fake kernels, autograd registration and AOT dispatch of the raw ops."""
    need.backend("native", op=OP)
    q, k, v = inputs(2, 5, 12, 9, 3, torch.float32)
    query_mask, key_mask = masks_of(2, 12, 9)
    share = query_mask.sum(1).float().reciprocal()
    rest = (0.5, query_mask, share, key_mask)
    torch.library.opcheck(torch.ops.kdfast.attention_masks.default, (q, k, v, *rest))
    out, mean, lse = torch.ops.kdfast.attention_masks(q, k, v, *rest)
    backward = torch.ops.kdfast.attention_masks_backward.default
    torch.library.opcheck(backward, (out, mean, out, lse, q, k, v, *rest))


def test_with_pytorch(place):
    q, k, v = (x.to(place) for x in inputs(2, 5, 12, 9, 3, torch.float32))

    def total(q):
        out, mean = KF.attention_masks(q, k, v)
        return out.square().sum() + mean.square().sum()

    works_with_pytorch(total, q)


def test_the_map_is_never_in_memory(need):
    need.backend("native", op=OP)
    q, k, v = (x.requires_grad_() for x in inputs(1, 16, 4000, 4000, 4, torch.float32))

    def step():
        out, mean = KF.attention_masks(q, k, v)
        (out.square().sum() + mean.square().sum()).backward()

    step()
    assert peak_bytes(step) < 4000 * 4000 * 4 / 4


def test_bad_input():
    q, k, v = inputs(2, 5, 12, 9, 3)
    call = KF.attention_masks
    refuses(TypeError, "query must be a tensor", call, 1, k, v)
    refuses(TypeError, "value must be float64", call, q, k, v.long())
    refuses(ValueError, r"query must be \[batch, d, positions\]", call, q[0], k, v)
    refuses(ValueError, "query must have d and positions of at least 1", call, q[:, :, :0], k, v)
    refuses(ValueError, r"key must be \[2, 5, positions\]", call, q, k[:, :4], v)
    refuses(ValueError, r"key must be \[2, 5, positions\]", call, q, k[:1], v)
    refuses(ValueError, "at least one", call, q, k[:, :, :0], v[:, :, :0])
    refuses(ValueError, r"value must be \[2, masks, 9\]", call, q, k, v[:, :, 1:])
    refuses(ValueError, "at least one mask", call, q, k, v[:, :0])
    refuses(ValueError, "scale must be a finite number above 0", call, q, k, v, scale=0)
    refuses(TypeError, "scale must be a number", call, q, k, v, scale="1")
    mask = torch.ones(2, 9, dtype=torch.bool)
    refuses(TypeError, "key_mask must be bool", call, q, k, v, key_mask=mask.float())
    refuses(ValueError, "query_mask must be", call, q, k, v, query_mask=mask)

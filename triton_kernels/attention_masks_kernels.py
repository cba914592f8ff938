"""The kernels of attention_masks: a program takes a tile of queries and walks the keys, or a tile of keys and
walks the queries. Sums are a program's own, so that results do not depend on timing.

Tensors [B, channels, positions] are tuples (pointer, batch stride, position stride, channel stride); `sizes`
is (queries N, keys L, width d, masks M). The equations are in csrc/attention_masks.h.
"""

import triton
import triton.language as tl

from .attention_tiles import attention, load_tile, product, valid
from .common import number, rounded


@triton.jit
def image(view, b):
    """One image's operand: pointer, position stride, channel stride."""
    return view[0] + b * view[1], view[2], view[3]


@triton.jit
def place(sizes, positions, chunks, TILE: tl.constexpr):
    """The program's image, its tile's positions (int64) and its chunk of channels."""
    tiles = (positions + TILE - 1) // TILE
    pid = tl.program_id(0).to(tl.int64)
    first = (pid // chunks) % tiles * TILE
    return pid // chunks // tiles, first + tl.arange(0, TILE).to(tl.int64), pid % chunks


@triton.jit
def forward_kernel(
    query,
    key,
    value,
    query_mask,
    key_mask,
    out,
    lse,
    sizes,
    scale,
    chunks,
    HAS_QUERY_MASK: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    QB: tl.constexpr,
    KB: tl.constexpr,
    DB: tl.constexpr,
    MB: tl.constexpr,
    ONCE: tl.constexpr,
):
    """out [B, M, N] and lse [B, N] by a softmax that goes along."""
    queries, keys, width, masks = sizes
    b, i, chunk = place(sizes, queries, chunks, QB)
    q_image, k_image = image(query, b), image(key, b)
    u_image = image(value, b)
    attends = valid(query_mask + b * queries, i, queries, HAS_QUERY_MASK)
    m = chunk * MB + tl.arange(0, MB).to(tl.int64)
    by = number(scale, TYPE)
    most = tl.full((QB,), -float("inf"), TYPE)
    total = tl.zeros((QB,), TYPE)
    sums = tl.zeros((QB, MB), TYPE)
    q = load_tile(q_image, i, tl.arange(0, DB).to(tl.int64), width, attends, False, OPERAND)
    for first in range(0, keys, KB):
        j = first + tl.arange(0, KB).to(tl.int64)
        there = valid(key_mask + b * keys, j, keys, HAS_KEY_MASK)
        if ONCE:  # the queries stay where they are
            c = tl.arange(0, DB).to(tl.int64)
            k = load_tile(k_image, j, c, width, there, True, OPERAND)
            s = tl.dot(q, k, input_precision=PRECISION, out_dtype=TYPE)
        else:
            s = product(q_image, i, attends, k_image, j, there, width, TYPE, OPERAND, PRECISION, DB, ONCE)
        s = tl.where(there[None, :], s * by, -float("inf"))
        largest = tl.maximum(most, tl.max(s, 1))
        shift = tl.where(largest == -float("inf"), 0, largest)
        p = tl.exp(s - shift[:, None])
        fade = tl.exp(most - shift)
        total = total * fade + tl.sum(p, 1)
        u = load_tile(u_image, j, m, masks, there, False, OPERAND)
        weight = rounded(p, OPERAND)
        sums = sums * fade[:, None] + tl.dot(weight, u, input_precision=PRECISION, out_dtype=TYPE)
        most = largest
    some = attends & (most > -float("inf"))
    inverse = tl.where(some, 1 / tl.where(some, total, 1), 0)
    at = out + (b * masks + m[None, :]) * queries + i[:, None]
    tl.store(at, sums * inverse[:, None], mask=(i < queries)[:, None] & (m < masks)[None, :])
    if chunk == 0:
        value_of_lse = tl.where(some, most + tl.log(tl.where(some, total, 1)), float("inf"))
        tl.store(lse + b * queries + i, value_of_lse, mask=i < queries)


@triton.jit
def mean_kernel(
    query,
    key,
    query_mask,
    key_mask,
    lse,
    share,
    mean,
    sizes,
    scale,
    HAS_QUERY_MASK: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    QB: tl.constexpr,
    KB: tl.constexpr,
    DB: tl.constexpr,
    ONCE: tl.constexpr,
):
    """mean [B, L]: a tile of keys under all queries."""
    queries, keys, width, masks = sizes
    b, j, _ = place(sizes, keys, 1, KB)
    q_image, k_image = image(query, b), image(key, b)
    there = valid(key_mask + b * keys, j, keys, HAS_KEY_MASK)
    by = number(scale, TYPE)
    sums = tl.zeros((KB,), TYPE)
    for first in range(0, queries, QB):
        i = first + tl.arange(0, QB).to(tl.int64)
        attends = valid(query_mask + b * queries, i, queries, HAS_QUERY_MASK)
        s = product(q_image, i, attends, k_image, j, there, width, TYPE, OPERAND, PRECISION, DB, ONCE)
        row = tl.load(lse + b * queries + i, mask=i < queries, other=float("inf"))
        sums += tl.sum(attention(s, by, row, there), 0)
    tl.store(mean + b * keys + j, sums * tl.load(share + b), mask=j < keys)


@triton.jit
def row_sums_kernel(
    query,
    key,
    query_mask,
    key_mask,
    out,
    lse,
    grad_out,
    grad_mean,
    share,
    d,
    sizes,
    scale,
    HAS_QUERY_MASK: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    QB: tl.constexpr,
    KB: tl.constexpr,
    DB: tl.constexpr,
    MB: tl.constexpr,
    ONCE: tl.constexpr,
):
    """D [B, N]: grad_out . out, and A under share * grad_mean."""
    queries, keys, width, masks = sizes
    b, i, _ = place(sizes, queries, 1, QB)
    q_image, k_image = image(query, b), image(key, b)
    attends = valid(query_mask + b * queries, i, queries, HAS_QUERY_MASK)
    row = tl.load(lse + b * queries + i, mask=i < queries, other=float("inf"))
    by, part = number(scale, TYPE), tl.load(share + b)
    sums = tl.zeros((QB,), TYPE)
    for first in range(0, masks, MB):
        m = first + tl.arange(0, MB).to(tl.int64)
        at = (b * masks + m[None, :]) * queries + i[:, None]
        inside = attends[:, None] & (m < masks)[None, :]
        up = tl.load(grad_out + at, mask=inside, other=0)
        sums += tl.sum(up * tl.load(out + at, mask=inside, other=0), 1)
    for first in range(0, keys, KB):
        j = first + tl.arange(0, KB).to(tl.int64)
        there = valid(key_mask + b * keys, j, keys, HAS_KEY_MASK)
        s = product(q_image, i, attends, k_image, j, there, width, TYPE, OPERAND, PRECISION, DB, ONCE)
        up = tl.load(grad_mean + b * keys + j, mask=there, other=0) * part
        sums += tl.sum(attention(s, by, row, there) * up[None, :], 1)
    tl.store(d + b * queries + i, sums, mask=i < queries)


@triton.jit
def query_grad_kernel(
    query,
    key,
    value,
    query_mask,
    key_mask,
    lse,
    d,
    upstream,
    grad_mean,
    share,
    grad,
    sizes,
    scale,
    chunks,
    HAS_QUERY_MASK: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    QB: tl.constexpr,
    KB: tl.constexpr,
    DB: tl.constexpr,
    MB: tl.constexpr,
    ONCE: tl.constexpr,
    ONCE_MASKS: tl.constexpr,
):
    """The gradient of a tile of queries, DB channels of it."""
    queries, keys, width, masks = sizes
    b, i, chunk = place(sizes, queries, chunks, QB)
    q_image, k_image = image(query, b), image(key, b)
    u_image, g_image = image(value, b), image(upstream, b)
    attends = valid(query_mask + b * queries, i, queries, HAS_QUERY_MASK)
    row = tl.load(lse + b * queries + i, mask=i < queries, other=float("inf"))
    total = tl.load(d + b * queries + i, mask=i < queries, other=0)
    by, part = number(scale, TYPE), tl.load(share + b)
    c = chunk * DB + tl.arange(0, DB).to(tl.int64)
    sums = tl.zeros((QB, DB), TYPE)
    for first in range(0, keys, KB):
        j = first + tl.arange(0, KB).to(tl.int64)
        there = valid(key_mask + b * keys, j, keys, HAS_KEY_MASK)
        s = product(q_image, i, attends, k_image, j, there, width, TYPE, OPERAND, PRECISION, DB, ONCE)
        p = product(g_image, i, attends, u_image, j, there, masks, TYPE, OPERAND, PRECISION, MB, ONCE_MASKS)
        up = tl.load(grad_mean + b * keys + j, mask=there, other=0) * part
        slope = attention(s, by, row, there) * (p + up[None, :] - total[:, None])
        k = load_tile(k_image, j, c, width, there, False, OPERAND)
        sums += tl.dot(rounded(slope, OPERAND), k, input_precision=PRECISION, out_dtype=TYPE)
    to = image(grad, b)
    at = to[0] + i[:, None] * to[1] + c[None, :] * to[2]
    stored = rounded(sums * by, at.dtype.element_ty)
    tl.store(at, stored, mask=(i < queries)[:, None] & (c < width)[None, :])


@triton.jit
def key_grad_kernel(
    query,
    key,
    value,
    query_mask,
    key_mask,
    lse,
    d,
    upstream,
    grad_mean,
    share,
    grad_key,
    grad_value,
    sizes,
    scale,
    chunks,
    HAS_QUERY_MASK: tl.constexpr,
    HAS_KEY_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    QB: tl.constexpr,
    KB: tl.constexpr,
    DB: tl.constexpr,
    MB: tl.constexpr,
    ONCE: tl.constexpr,
    ONCE_MASKS: tl.constexpr,
):
    """The gradients of a tile of keys and their values: a chunk of DB channels and one of MB masks."""
    queries, keys, width, masks = sizes
    b, j, chunk = place(sizes, keys, chunks, KB)
    q_image, k_image = image(query, b), image(key, b)
    u_image, g_image = image(value, b), image(upstream, b)
    there = valid(key_mask + b * keys, j, keys, HAS_KEY_MASK)
    by, part = number(scale, TYPE), tl.load(share + b)
    up = tl.load(grad_mean + b * keys + j, mask=there, other=0) * part
    c = chunk * DB + tl.arange(0, DB).to(tl.int64)
    m = chunk * MB + tl.arange(0, MB).to(tl.int64)
    of_keys, of_values = tl.zeros((KB, DB), TYPE), tl.zeros((KB, MB), TYPE)
    for first in range(0, queries, QB):
        i = first + tl.arange(0, QB).to(tl.int64)
        attends = valid(query_mask + b * queries, i, queries, HAS_QUERY_MASK)
        row = tl.load(lse + b * queries + i, mask=i < queries, other=float("inf"))
        total = tl.load(d + b * queries + i, mask=i < queries, other=0)
        s = product(q_image, i, attends, k_image, j, there, width, TYPE, OPERAND, PRECISION, DB, ONCE)
        p = product(g_image, i, attends, u_image, j, there, masks, TYPE, OPERAND, PRECISION, MB, ONCE_MASKS)
        a = attention(s, by, row, there)
        slope = a * (p + up[None, :] - total[:, None])
        q = load_tile(q_image, i, c, width, attends, False, OPERAND)
        g = load_tile(g_image, i, m, masks, attends, False, OPERAND)
        of_keys += tl.dot(tl.trans(rounded(slope, OPERAND)), q, input_precision=PRECISION, out_dtype=TYPE)
        of_values += tl.dot(tl.trans(rounded(a, OPERAND)), g, input_precision=PRECISION, out_dtype=TYPE)
    to = image(grad_key, b)
    at = to[0] + j[:, None] * to[1] + c[None, :] * to[2]
    tl.store(at, rounded(of_keys * by, at.dtype.element_ty), mask=(j < keys)[:, None] & (c < width)[None, :])
    to = image(grad_value, b)
    at = to[0] + j[:, None] * to[1] + m[None, :] * to[2]
    tl.store(at, rounded(of_values, at.dtype.element_ty), mask=(j < keys)[:, None] & (m < masks)[None, :])

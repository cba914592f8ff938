"""What every Triton kernel shares: numbers at full accuracy, and the way from an index to an element's
offset.

phi(u) = expm1(u) - u >= 0 carries the Bregman form of a divergence. Near 0 it is a Taylor series, so that
nothing cancels; the same series gives expm1(u) = u + phi(u). log1p(x) = 2 atanh(x / (2 + x)) is a series in
(x / (2 + x))^2. Series are as long as the number type asks for: about 1e-7 relative in float32, 2e-16 in
float64.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Whether kernels run in Triton's interpreter: on the CPU, in numpy.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

# Python-visible name -> Triton's, for the number types that a logit may have.
NUMBER = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def compute_type(*tensors: Tensor) -> torch.dtype:
    """What a kernel computes in: float64 if one of the tensors is float64, else float32."""
    return torch.float64 if torch.float64 in [x.dtype for x in tensors] else torch.float32


@triton.constexpr_function
def inverse_factorial(n: int) -> float:
    """1 / n!, at compile time."""
    return 1.0 / math.factorial(n)


@triton.jit
def number(x, TYPE: tl.constexpr):
    """A launch argument as a number of the compute type; floats are passed as float64, so nothing is lost."""
    return tl.full((), x, TYPE)


@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """x in a type to be stored, rounded to nearest even; the interpreter's own cast cuts bfloat16 off."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        x = x.to(tl.float32)
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        nearest = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
        return tl.where(x == x, nearest, x.to(tl.bfloat16))
    else:
        return x.to(TYPE)


@triton.jit
def phi_series(u, TERMS: tl.constexpr):
    """expm1(u) - u from u^2/2! to u^(TERMS+1)/(TERMS+1)!."""
    sum = u * inverse_factorial(TERMS + 1) + inverse_factorial(TERMS)
    for k in tl.static_range(TERMS - 2):
        sum = sum * u + inverse_factorial(TERMS - 1 - k)
    return sum * (u * u)


@triton.jit
def phi(u):
    """expm1(u) - u for |u| <= 1/2."""
    if u.dtype == tl.float64:
        return phi_series(u, 14)
    else:
        return phi_series(u, 7)


@triton.jit
def expm1_quarter(u):
    """expm1(u) for |u| <= 1/4, two terms shorter than phi."""
    if u.dtype == tl.float64:
        return u + phi_series(u, 11)
    else:
        return u + phi_series(u, 5)


@triton.jit
def atanh_series(s, TERMS: tl.constexpr):
    """s + s^3/3 + ... for TERMS terms."""
    square = s * s
    sum = square * (1.0 / (2 * TERMS - 1)) + 1.0 / (2 * TERMS - 3)
    for k in tl.static_range(TERMS - 2):
        sum = sum * square + 1.0 / (2 * TERMS - 5 - 2 * k)
    return sum * s


@triton.jit
def log1p(x):
    """log(1 + x) for -1/2 <= x <= 1/2: there |x / (2 + x)| <= 1/3."""
    if x.dtype == tl.float64:
        return 2 * atanh_series(x / (2 + x), 16)
    else:
        return 2 * atanh_series(x / (2 + x), 7)


@triton.jit
def element_offset(index, sizes, strides):
    """Offset in elements (int64) of a row-major `index` over dims of these sizes and strides."""
    offset = tl.zeros(index.shape, tl.int64)
    for i in tl.static_range(len(sizes) - 1):
        offset += (index % sizes[len(sizes) - 1 - i]).to(tl.int64) * strides[len(sizes) - 1 - i]
        index = index // sizes[len(sizes) - 1 - i]
    return offset + index.to(tl.int64) * strides[0]


@triton.jit
def square_root(x: tl.tensor):
    """Correctly rounded in both types: tl.sqrt_rn takes float32 alone; tl.sqrt of float64 is so."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)

"""triton/functions: holds the functions of one number that kernels in Triton call.

Float32 ones are made of operations that IEEE 754 defines, so that what the interpreter computes is what a device
computes: polynomials as in :mod:`spikeloom.kernel.c.source`, where the hardware has approximations. In float64 exp and
log are those of the device's library.
"""

# ruff: noqa: N802  # the names of C
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def K_bits(y):
    """The ones of a block as bytes; the first is in the lowest bit."""
    ones = tl.reshape((y == 1.0).to(tl.int32), [y.shape[0] // 8, 8])
    return tl.sum(ones << tl.arange(0, 8)[None, :], 1).to(tl.uint8)


@triton.jit
def K_clamp(x, low, high):
    y = tl.where((x > low) | (x != x), x, low)
    return tl.where((y < high) | (y != y), y, high)


@triton.jit
def K_sqrt(x):
    if x.dtype == tl.float64:
        y = tl.sqrt(x)
    else:
        y = tl.sqrt_rn(x)
    return y


@triton.jit
def K_rint(x):
    """The nearest integer, ties to even. Beyond ``big`` there are only integers, so adding it rounds."""
    if x.dtype == tl.float64:
        big = 4503599627370496.0
    else:
        big = 8388608.0
    a = tl.abs(x)
    r = (a + big) - big
    return tl.where((a < big) & (x != 0.0), tl.where(x < 0.0, r * -1.0, r), x)  # -r is 0 - r before Triton 3.9


@triton.jit
def K_exp(x):
    """``2^n exp(r)``, n = round(x / ln 2): a Taylor polynomial in r, and 2^n in two factors for denormal results."""
    if x.dtype == tl.float64:
        y = tl.exp(x)
    else:
        c = tl.where(x > 89.0, 89.0, x)
        c = tl.where(c < -104.0, -104.0, c)
        n = (c * 1.44269504088896341 + 12582912.0) - 12582912.0
        r = c - n * 0.693145751953125
        r = r - n * 1.428606765330187045e-6
        p = r * 0.0001984126984126984 + 0.001388888888888889
        p = p * r + 0.008333333333333333
        p = p * r + 0.041666666666666664
        p = p * r + 0.16666666666666666
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        k = tl.where(n == n, n, 0.0).to(tl.int32)
        h = k >> 1
        low = ((h + 127) << 23).to(tl.float32, bitcast=True)
        high = ((k - h + 127) << 23).to(tl.float32, bitcast=True)
        y = tl.where(x == x, p * low * high, x)
    return y


@triton.jit
def K_log(x):
    """``e ln 2 + 2 atanh(s)`` with s = (m - 1) / (m + 1), x = 2^e m and m between sqrt(1/2) and sqrt(2)."""
    if x.dtype == tl.float64:
        y = tl.log(x)
    else:
        tiny = x < 1.17549435e-38
        bits = tl.where(tiny, x * 8388608.0, x).to(tl.int32, bitcast=True)
        e = (bits - 0x3F3504F3) >> 23
        m = (bits - (e << 23)).to(tl.float32, bitcast=True)
        s = tl.div_rn(m - 1.0, m + 1.0)
        z = s * s
        p = z * 0.2222222222222222 + 0.2857142857142857
        p = p * z + 0.4
        p = p * z + 0.6666666666666666
        k = (e - tl.where(tiny, 23, 0)).to(tl.float32)
        y = k * 0.693145751953125 + (2.0 * s + (s * z * p + k * 1.428606765330187045e-6))
        y = tl.where(x == float("inf"), x, y)
        y = tl.where(x == 0.0, float("-inf"), y)
        y = tl.where((x < 0.0) | (x != x), float("nan"), y)
    return y


@triton.jit
def K_expm1(x):
    """Near 0 this is its Taylor series, in float64 Kahan's quotient; elsewhere it is ``exp(x) - 1``."""
    u = K_exp(x)
    if x.dtype == tl.float64:
        near = tl.where(u == 1.0, x, (u - 1.0) * x / tl.log(u))
        y = tl.where(tl.abs(x) < 1.0, near, u - 1.0)
    else:
        p = x * 0.0000248015873015873 + 0.0001984126984126984
        p = p * x + 0.001388888888888889
        p = p * x + 0.008333333333333333
        p = p * x + 0.041666666666666664
        p = p * x + 0.16666666666666666
        p = p * x + 0.5
        y = tl.where(tl.abs(x) < 0.35, x + x * x * p, u - 1.0)
    return tl.where(x == 0.0, x, y)


@triton.jit
def K_log1p(x):
    """``log(u) x / (u - 1)`` with u = 1 + x; the quotient gives back what u has lost."""
    u = 1.0 + x
    if x.dtype == tl.float64:
        y = K_log(u) * (x / (u - 1.0))
    else:
        y = K_log(u) * tl.div_rn(x, u - 1.0)
    y = tl.where(x == float("inf"), x, y)
    return tl.where(u == 1.0, x, y)


@triton.jit
def K_tanh(x):
    """``1 - 2 / (exp(2 |x|) + 1)``, and where that would cancel its series; in float64 by expm1."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        e = K_expm1(-2.0 * a)
        y = -e / (e + 2.0)
    else:
        z = x * x
        p = z * -0.008863235529902197 + 0.021869488536155203
        p = p * z - 0.05396825396825397
        p = p * z + 0.13333333333333333
        p = p * z - 0.3333333333333333
        y = tl.where(a < 0.35, a + a * z * p, 1.0 - tl.div_rn(2.0, K_exp(2.0 * a) + 1.0))
    return tl.where(x < 0.0, -y, tl.where(x == 0.0, x, y))


@triton.jit
def K_sigmoid(x):
    e = K_exp(-x)
    if x.dtype == tl.float64:
        y = 1.0 / (1.0 + e)
    else:
        y = tl.div_rn(1.0, 1.0 + e)
    return y


@triton.jit
def K_atan(x):
    """Its Taylor series for |z| <= tan(pi / 8), to which atan(1 / x) and atan((x - 1) / (x + 1)) reduce others."""
    a = tl.abs(x)
    large = a > 1.0
    if x.dtype == tl.float64:
        z = tl.where(large, 1.0 / a, a)
        middle = z > 0.4142135623730950488
        z = tl.where(middle, (z - 1.0) / (z + 1.0), z)
        w = z * z
        one = w * 0.0 + 1.0
        p = one / 45.0
        for k in tl.static_range(1, 23):
            p = one / (45.0 - 2.0 * k) - w * p
    else:
        z = tl.where(large, tl.div_rn(1.0, a), a)
        middle = z > 0.4142135623730950488
        z = tl.where(middle, tl.div_rn(z - 1.0, z + 1.0), z)
        w = z * z
        p = w * -0.05263157894736842 + 0.058823529411764705
        p = p * w - 0.06666666666666667
        p = p * w + 0.07692307692307693
        p = p * w - 0.09090909090909091
        p = p * w + 0.1111111111111111
        p = p * w - 0.14285714285714285
        p = p * w + 0.2
        p = p * w - 0.3333333333333333
        p = p * w + 1.0
    y = z * p
    y = tl.where(middle, y + 0.78539816339744830962, y)
    y = tl.where(large, 1.57079632679489661923 - y, y)
    return tl.where(x < 0.0, -y, tl.where(x == 0.0, x, y))


@triton.jit
def K_erfc(x):
    """``t exp(-x^2) p(t)`` for x > 0, t = 2 / (2 + x), p fitted to erfcx(x) / t; ``2 - erfc(-x)`` below."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        t = 2.0 / (2.0 + a)
        head = (a.to(tl.int64, bitcast=True) & -134217728).to(tl.float64, bitcast=True)  # its square is exact
        k = 2.0 * t - 1.0
        p = k * -1.3170890159654396e-09 + 6.799472044921581e-09
        p = p * k + 3.292722539913598e-09
        p = p * k - 5.2490113189397628e-08
        p = p * k + 4.3529791977657766e-08
        p = p * k + 1.5195400033804393e-07
        p = p * k - 3.3606761013310649e-07
        p = p * k + 1.3052043455479282e-08
        p = p * k + 1.038369307223456e-06
        p = p * k - 1.8331803853217158e-06
        p = p * k - 5.8146072151859305e-07
        p = p * k + 8.066289395292549e-06
        p = p * k - 1.0841898552206362e-05
        p = p * k - 1.7076433702125883e-05
        p = p * k + 7.2234051558502151e-05
        p = p * k - 1.718528071957261e-05
        p = p * k - 0.00033153658597369481
        p = p * k + 0.00041864797243540576
        p = p * k + 0.0015453060189639907
        p = p * k - 0.0032395925295789028
        p = p * k - 0.010755330944492792
        p = p * k + 0.018221115753308668
        p = p * k + 0.13973604627802327
        p = p * k + 0.3435803422069057
        p = p * k + 0.51079135262101216
    else:
        t = tl.div_rn(2.0, 2.0 + a)
        head = (a.to(tl.int32, bitcast=True) & -4096).to(tl.float32, bitcast=True)
        k = 2.0 * t - 1.0
        p = k * -1.327395623e-06 + 4.216119729e-05
        p = p * k - 3.295153898e-05
        p = p * k - 0.0002993827123
        p = p * k + 0.0004270201505
        p = p * k + 0.001529157161
        p = p * k - 0.003241854895
        p = p * k - 0.01075162619
        p = p * k + 0.01822138425
        p = p * k + 0.1397357335
        p = p * k + 0.343580333
        p = p * k + 0.5107913569
    e = K_exp(-head * head) * K_exp((head - a) * (head + a))
    y = tl.where(a == float("inf"), 0.0, t * p * e)
    return tl.where(x < 0.0, 2.0 - y, y)


@triton.jit
def K_power_of_two(x):
    """Whether dividing by a float32 is multiplying by its reciprocal, which is as exact."""
    whole = (x.to(tl.int32, bitcast=True) & 0x7FFFFF) == 0
    return whole & (tl.abs(x) > 1e-30) & (tl.abs(x) < 1e30)

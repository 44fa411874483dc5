"""convolution: spikes through nn.Conv1d and nn.Conv2d, and the gradient of their weights, from the bits.

    Y[n, h, w] = sum over taps (i, j) of sum over c with S[n, c, h s + i d - p, w s + j d - p] = 1 of W[i, j, c]
    dW[i, j, c] = sum over (n, h, w) with the same bit = 1 of G[n, h, w]

On a CPU; the order of additions (see row_sums) depends on the shape alone. The gradient of the input has no bits in it
and is torch's. On other devices spikes are unpacked in the layout that they have, where the gradient of the weight or
the output is computed from them, and autograd keeps the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Prepared
from ..kernel.backend import is_watched
from ..native import build
from ..native.allocator import huge_pages
from ..native.call import bound, call, threads
from .bits import n_bytes
from .convolution_source import SOURCE
from .handlers import handles
from .operators import one_call
from .products import DENSE, own, suits, transposed, transposition
from .tensor import SpikeTensor, dense, is_last

aten = torch.ops.aten

_LAST = torch.channels_last

_SMALL = 1 << 20  # multiplications; below it one thread is faster than several
LEAST_USED = 0.3
"""The least :attr:`Shape.used` at which the gradient of a weight is computed from the bits."""
_FEW = 1 << 18  # values of a weight; below it one thread sorts them by taps faster than several


class Shape:
    """The sizes of a convolution of images ``[N, C, H, W]``, for the C functions."""

    def __init__(self, size: tuple[int, ...], weight: tuple[int, ...], *options: list[int]) -> None:
        self.size, self.weight, self.options = size, weight, options
        stride, padding, dilation = options
        self.outputs = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(size[2:], padding, dilation, weight[2:], stride, strict=True)
        ]

    def numbers(self, bits: Tensor, stride: int, last: bool) -> tuple[int, ...]:
        """The values of the C struct ``sizes``."""
        N, C, H, W = self.size
        O, _, KH, KW = self.weight  # noqa: E741
        options = [n for option in self.options for n in option]
        work = N * self.outputs[0] * self.outputs[1] * C * KH * KW * O
        sizes = (N, H, W, C, O, *self.outputs, KH, KW, *options)
        return (bits.numel(), stride, *sizes, int(last), threads(work, at_least=_SMALL))

    @property
    def used(self) -> float:
        """The share of outputs among the places that the C function for the gradient of the weight goes through."""
        row = -(-(self.size[3] + 2 * self.options[1][1]) // self.options[0][1])
        OH, OW = self.outputs
        return OH * OW / (-(-((OH - 1) * row + OW) // 32) * 32)


def convolve(s: SpikeTensor, rows: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """The output ``[N, O, OH, OW]`` in float32 in the layout of s. ``rows``: the weight as :func:`_taps` gives it."""
    Y, run = _convolution_into(s, rows, bias, shape)
    run()
    return Y


def _convolution_into(
    s: SpikeTensor, rows: Tensor, bias: Tensor | None, shape: Shape
) -> tuple[Tensor, Callable[[], int]]:
    N, C, H, W = s.shape
    last, bits, stride, turn = is_last(s), s.bits, C, None
    if not last:
        (bits, turn), stride = transposition(s.bits, C, H * W, batch=N), 8 * n_bytes(C)
    layout = _LAST if last else torch.contiguous_format
    Y = huge_pages(torch.empty(N, shape.weight[0], *shape.outputs, dtype=torch.float32, memory_format=layout))
    offset = None if bias is None else bias.float().contiguous()
    multiply = bound(build.compiled(SOURCE).convolve, bits, rows, offset, Y, shape.numbers(bits, stride, last))
    if turn is None:
        return Y, multiply

    def run() -> int:
        turn()
        return multiply()

    return Y, run


@handles(nn.Conv2d)
def _conv2d(layer: nn.Conv2d, s: SpikeTensor) -> Prepared | None:
    """A convolution of images of spikes in that memory; weight and bias are copied now."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or s.dtype != torch.float32:
        return None
    if s.ndim != 4 or not _multiplies(s, layer.weight, False, layer.groups):
        return None
    options = (list(layer.stride), list(layer.padding), list(layer.dilation))
    shape = Shape(tuple(s.shape), tuple(layer.weight.shape), *options)
    rows, finite = _taps(layer.weight)
    if not finite or min(shape.outputs) < 1:
        return None
    return Prepared.writing(
        *_convolution_into(s, rows, None if layer.bias is None else own(layer.bias), shape), reads=(layer,)
    )


def weight_gradient(s: SpikeTensor, G: Tensor, shape: Shape) -> Tensor:
    """The gradient of the weight ``[O, C, KH, KW]`` in float32, from G, the gradient of the output."""
    N, C, H, W = s.shape
    bits, stride = (transposed(s.bits, H * W, C, batch=N), 8 * n_bytes(H * W)) if is_last(s) else (s.bits, H * W)
    last = not G.is_contiguous() and G.is_contiguous(memory_format=_LAST)
    G = G.float() if last else G.float().contiguous()
    O, _, KH, KW = shape.weight  # noqa: E741
    dW = torch.empty(O, C, KH, KW, dtype=torch.float32)
    if not call(build.compiled(SOURCE).weight_gradient, bits, G, dW, shape.numbers(bits, stride, last)):
        raise MemoryError(
            f"the gradient of a convolution's weight {list(shape.weight)}: not enough memory for its sums"
        )
    return dW


def _taps(weight: Tensor) -> tuple[Tensor, bool]:
    """A weight as ``[KH, KW, C, O]`` in float32, with zeros up to whole groups, panels and passes (see row_sums).

    The second value tells whether all values of the weight are finite.
    """
    O, C, KH, KW = weight.shape  # noqa: E741
    have, panels = KH * KW * -(-C // 4) * 4, -(-O // 64) * 64
    dense, rows = weight.float().contiguous(), torch.empty(-(-have // 32) * 32, panels, dtype=torch.float32)
    rows[have:] = 0.0
    call(build.compiled(SOURCE).by_taps, dense, rows, O, C, KH * KW, threads(rows.numel(), at_least=_FEW))
    return rows, bool(weight.sum(dtype=torch.float32).isfinite())


def _multiplies(s: Any, weight: Any, is_transposed: bool, groups: int) -> bool:
    return (
        isinstance(s, SpikeTensor)
        and s.ndim in (3, 4)
        and (s.is_contiguous() or is_last(s))
        and not is_transposed
        and groups == 1
        and s.shape[1] <= 4096
        and suits(s, weight, SOURCE)
    )


def _images(s: SpikeTensor, weight: Tensor, *options: list[int]) -> tuple[SpikeTensor, Tensor, Shape]:
    """Spikes, weight and sizes of a convolution in two dimensions; one in a single dimension gets a height of 1."""
    if s.ndim == 4:
        return s, weight, Shape(tuple(s.shape), tuple(weight.shape), *options)
    s, weight = s.unsqueeze(2), weight.unsqueeze(2)  # type: ignore[assignment]
    stride, padding, dilation = options
    return s, weight, Shape(tuple(s.shape), tuple(weight.shape), [1, *stride], [0, *padding], [1, *dilation])


def _turns(s: Any, weight: Any) -> bool:
    """Whether torch would copy unpacked images into the layout of the weight, which is cheaper done with their bits.

    Not while somebody is told what ran, who is to hear that they were unpacked.
    """
    if not isinstance(s, SpikeTensor) or type(weight) not in DENSE or not is_last(weight) or is_watched():
        return False
    return s.ndim == 4 and s.is_contiguous() and s.shape[1] % 8 == 0 and s.numel() > 0


def _channels_last(s: SpikeTensor) -> Tensor:
    """Unpacked images with their channels last."""
    return dense(s.contiguous(memory_format=_LAST))  # type: ignore[arg-type]


@handles(aten.convolution.default, compiled=one_call)
def _convolution(
    func: Any, s: Any, weight: Any, bias: Any, stride: list[int], padding: list[int], dilation: list[int],
    is_transposed: bool, output_padding: list[int], groups: int,
) -> Any:  # fmt: skip
    if not _multiplies(s, weight, is_transposed, groups) or not (bias is None or type(bias) in DENSE):
        options = (stride, padding, dilation, is_transposed, output_padding, groups)
        return func(_channels_last(s), weight, bias, *options) if _turns(s, weight) else NotImplemented
    images, taps, shape = _images(s, weight, stride, padding, dilation)
    if min(shape.outputs) < 1:
        return NotImplemented  # torch says what is wrong
    rows, finite = _taps(taps)
    if not finite:  # 0 * infinity is NaN
        return NotImplemented
    y = convolve(images, rows, bias, shape).to(s.dtype)
    return y if s.ndim == 4 else y.squeeze(2)


@handles(aten.convolution_backward.default, compiled=one_call)
def _convolution_backward(
    func: Any, grad: Any, s: Any, weight: Any, bias_sizes: Any, stride: list[int], padding: list[int],
    dilation: list[int], is_transposed: bool, output_padding: list[int], groups: int, mask: list[bool],
) -> Any:  # fmt: skip
    options = (stride, padding, dilation, is_transposed, output_padding, groups)
    if isinstance(s, SpikeTensor) and not mask[1]:  # the gradient of the input needs its shape alone
        unread = torch.empty_strided(s.shape, s.stride(), dtype=s.dtype, device=s.device)
        return func(grad, unread, weight, bias_sizes, *options, mask)
    if type(grad) not in DENSE or not _multiplies(s, weight, is_transposed, groups):
        turned = _turns(s, weight)
        return func(grad, _channels_last(s), weight, bias_sizes, *options, mask) if turned else NotImplemented
    images, _, shape = _images(s, weight, stride, padding, dilation)
    if shape.used < LEAST_USED or not bool(grad.sum(dtype=torch.float32).isfinite()):
        return NotImplemented
    by_weight = weight_gradient(images, grad if s.ndim == 4 else grad.unsqueeze(2), shape).to(weight.dtype)
    by_bias = grad.sum([0, *range(2, grad.ndim)]) if mask[2] else None
    by_input = None
    if mask[0]:
        unread = torch.empty_strided(s.shape, s.stride(), dtype=s.dtype)
        by_input = func(grad, unread, weight, bias_sizes, *options, [True, False, False])[0]
    return by_input, by_weight.view(weight.shape), by_bias

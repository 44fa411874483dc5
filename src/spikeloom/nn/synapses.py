"""synapses: products with a matrix of which only some values exist, and their gradients, in C on a CPU.

    Y[r] = sum over synapses s of row r of w[s] X[column[s]],    dw[s] = G[row[s]] . X[column[s]]

X ``[columns, B]``, Y and G ``[rows, B]``: a synapse multiplies a whole row of samples. The gradient of X is the first
sum over the transposed matrix. The order of additions depends on the synapses alone (and, for dw, on B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernel.launch import Once
from ..native import build
from ..native.call import call, threads

_SOURCE = r"""
#include <stdint.h>
#include <string.h>
#define PANEL 64

#define PRODUCTS(T)                                                                                           \
void times_##T(const T *w, const int64_t *starts, const int32_t *columns, const T *X, T *Y,                   \
               int64_t rows, int64_t B, int64_t threads) {                                                    \
  _Pragma("omp parallel for schedule(dynamic, 16) num_threads((int)threads) if (threads > 1)")                \
  for (int64_t r = 0; r < rows; r++)                                                                          \
    for (int64_t b = 0; b < B; b += PANEL) {                                                                  \
      const int n = B - b < PANEL ? (int)(B - b) : PANEL;                                                     \
      T sum[PANEL] = {0};                                                                                     \
      for (int64_t s = starts[r]; s < starts[r + 1]; s++) {                                                   \
        const T *x = X + (int64_t)columns[s] * B + b, v = w[s];                                               \
        if (n == PANEL) for (int j = 0; j < PANEL; j++) sum[j] += v * x[j];                                   \
        else for (int j = 0; j < n; j++) sum[j] += v * x[j];                                                  \
      }                                                                                                       \
      memcpy(Y + r * B + b, sum, n * sizeof(T));                                                              \
    }                                                                                                         \
}                                                                                                             \
void gradient_##T(const T *G, const int64_t *starts, const int32_t *columns, const T *X, T *dw,               \
                  int64_t rows, int64_t B, int64_t threads) {                                                 \
  _Pragma("omp parallel for schedule(dynamic, 16) num_threads((int)threads) if (threads > 1)")                \
  for (int64_t r = 0; r < rows; r++)                                                                          \
    for (int64_t s = starts[r]; s < starts[r + 1]; s++) {                                                     \
      const T *x = X + (int64_t)columns[s] * B, *g = G + r * B;                                               \
      T part[16] = {0}, sum = 0;                                                                              \
      int64_t b = 0;                                                                                          \
      for (; b + 16 <= B; b += 16) for (int j = 0; j < 16; j++) part[j] += g[b + j] * x[b + j];               \
      for (; b < B; b++) part[b & 15] += g[b] * x[b];                                                         \
      for (int j = 0; j < 16; j++) sum += part[j];                                                            \
      dw[s] = sum;                                                                                            \
    }                                                                                                         \
}
PRODUCTS(float)
PRODUCTS(double)
"""
_TYPES = {torch.float32: "float", torch.float64: "double"}
_SMALL = 1 << 17  # multiplications of a product; with fewer, one thread is faster than several


@dataclass(frozen=True)
class Places:
    """Where synapses are, row by row and column by column."""

    shape: tuple[int, int]
    starts: Tensor
    columns: Tensor
    transposed_starts: Tensor
    rows: Tensor
    order: Tensor
    """The indices of the synapses, sorted column by column."""

    @staticmethod
    def of(synapses: Tensor, outputs: int, inputs: int) -> Places:
        """The places from ascending indices into the flattened matrix ``[outputs, inputs]``."""
        rows, columns = synapses // inputs, synapses % inputs
        order = columns.argsort(stable=True)

        def starts(index: Tensor, n: int) -> Tensor:
            ends = index.bincount(minlength=n).cumsum(0)
            return torch.cat([ends.new_zeros(1), ends])

        return Places(
            (outputs, inputs), starts(rows, outputs), columns.int(), starts(columns, inputs), rows[order].int(), order
        )


def available(x: Tensor, weight: Tensor) -> bool:
    """Whether there are kernels for this input and weight."""
    return x.is_cpu and x.dtype == weight.dtype and x.dtype in _TYPES and build.compiled(_SOURCE) is not None


def times(x: Tensor, weight: Tensor, places: Places) -> Tensor:
    """The product ``x [B, inputs] @ W^T``, ``[B, outputs]``, with gradient."""
    y: Tensor = _Times.apply(x, weight, places)  # type: ignore[no-untyped-call]
    return y


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(x, weight)  # packed spikes are saved as bits
        ctx.places = places
        return _product(weight, places.starts, places.columns, x * 1 if type(x) is not Tensor else x, places.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        needs, places = ctx.needs_input_grad, ctx.places

        def gradients(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
            by_x = by_weight = None
            if needs[0]:
                by_x = _product(weight[places.order], places.transposed_starts, places.rows, grad, places.shape[1])
            if needs[1]:
                G, X = grad.t().contiguous(), (x * 1).t().contiguous()
                by_weight = torch.empty_like(weight)
                _call("gradient", G, places.starts, places.columns, X, by_weight)
            return by_x, by_weight

        return (*Once.apply(gradients, grad, *ctx.saved_tensors), None)  # type: ignore[no-untyped-call]


def _product(weight: Tensor, starts: Tensor, columns: Tensor, x: Tensor, rows: int) -> Tensor:
    X = x.t().contiguous()
    Y = X.new_empty(rows, x.shape[0])
    _call("times", weight, starts, columns, X, Y)
    return Y.t()


def _call(name: str, values: Tensor, starts: Tensor, columns: Tensor, X: Tensor, out: Tensor) -> None:
    B = X.shape[1]
    function = getattr(build.compiled(_SOURCE), f"{name}_{_TYPES[X.dtype]}")
    sizes = (len(starts) - 1, B, threads(len(columns) * B, at_least=_SMALL))
    call(function, values.contiguous(), starts, columns, X, out, *sizes)

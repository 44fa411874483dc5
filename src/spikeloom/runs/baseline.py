"""The accuracy of a linear classifier, to compare a network with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader


def linear_baseline(
    train: DataLoader[tuple[Tensor, Tensor]],
    test: DataLoader[tuple[Tensor, Tensor]],
    features: Callable[[Tensor], Tensor],
) -> float:
    """Test accuracy of multinomial logistic regression on ``features(x)`` ``[B, F]``, such as spike counts.

    It minimises ``sum_n CE(W z_n + b, y_n) + |W|^2 / 2``, where ``z`` is standardised by the training features. The
    minimum is unique, so that nothing depends on a seed.

    >>> import torch
    >>> import spikeloom as sl
    >>> y = torch.tensor([0, 1] * 8)
    >>> samples = sl.data.Samples(y.view(-1, 1) + torch.linspace(0, 0.4, 16).view(-1, 1), y, classes=("low", "high"))
    >>> found = sl.data.loaders((samples, samples), batch_size=4)
    >>> sl.runs.linear_baseline(found.train, found.test, lambda x: x)  # one number tells these classes apart
    1.0
    >>> sl.runs.linear_baseline(found.train, found.test, lambda x: 0 * x)
    0.5
    """
    (x, y), (x_test, y_test) = (_gathered(loader, features) for loader in (train, test))
    mean, std = x.mean(0), x.std(0, correction=0)
    std[std == 0] = 1
    x, x_test = (x - mean) / std, (x_test - mean) / std
    classes = int(max(y.max(), y_test.max())) + 1
    W = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [W, b], max_iter=1000, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(F.linear(x, W, b), y, reduction="sum") + W.square().sum() / 2
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return float((F.linear(x_test, W, b).argmax(1) == y_test).double().mean())


def _gathered(loader: DataLoader[tuple[Tensor, Tensor]], features: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The features and the labels of all samples of a loader, also of those that other processes train on."""
    samples: Any = loader.dataset
    n = len(samples)
    parts = [samples[[(0, i) for i in range(k, min(k + 256, n))]] for k in range(0, n, 256)]
    with torch.no_grad():
        return torch.cat([features(x).double() for x, _ in parts]), torch.cat([y for _, y in parts])

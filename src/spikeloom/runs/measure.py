"""Averages over a data set, which are the same in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .processes import Processes, unwrap
from .progress import Silent

C = TypeVar("C")
Measures = Callable[[nn.Module, Tensor, Tensor], Mapping[str, Tensor]]
"""A function of a network, inputs and targets, that gives values for each sample of the batch by name."""


class Accuracy(Generic[C]):
    """What :func:`accuracy` makes: whether the highest of ``scores(net, x, config)`` is that of the label."""

    def __init__(self, scores: Callable[[nn.Module, Tensor, C], Tensor]) -> None:
        self.scores = scores

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor, config: C) -> dict[str, Tensor]:
        return {"accuracy": self.scores(net, x, config).argmax(-1) == y}


def accuracy(scores: Callable[[nn.Module, Tensor, C], Tensor]) -> Accuracy[C]:
    """Makes ``measures`` for a classifier from its ``scores(net, x, config)`` ``[B, classes]``: whether the highest
    score is that of the label. A :class:`Run` that measures it on test samples keeps which class was taken for which.

    >>> import torch
    >>> import spikeloom as sl
    >>> measures = sl.runs.accuracy(lambda net, x, config: net(x))
    >>> x, y = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]), torch.tensor([0, 1, 1])
    >>> measures(torch.nn.Identity(), x, y, None)
    {'accuracy': tensor([ True,  True, False])}
    """
    return Accuracy(scores)


class Confusion:
    """Measures of a classifier that count which class was taken for which, beside its accuracy.

    ``counts`` ``[classes, classes]`` has a row for each true class and a column for each predicted one. Samples whose
    label or prediction is none of the classes are not in it.

    >>> import torch
    >>> import spikeloom as sl
    >>> measures = sl.runs.Confusion(lambda net, x: net(x), classes=2)
    >>> x, y = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]), torch.tensor([0, 1, 1])
    >>> measures(torch.nn.Identity(), x, y)
    {'accuracy': tensor([ True,  True, False])}
    >>> measures.counts  # the third one is of class 1 and was taken for class 0
    tensor([[1, 0],
            [1, 1]])
    """

    def __init__(self, scores: Callable[[nn.Module, Tensor], Tensor], classes: int) -> None:
        self.scores, self.counts = scores, torch.zeros(classes, classes, dtype=torch.int64)

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Whether each sample of a batch is right."""
        predicted = self.scores(net, x).argmax(-1)
        pairs = torch.stack([y, predicted.to(y)], 1).long().cpu()
        true, taken = pairs[((pairs >= 0) & (pairs < len(self.counts))).all(1)].T
        self.counts.index_put_((true, taken), torch.tensor(1), accumulate=True)
        return {"accuracy": predicted == y}


def average(
    net: nn.Module,
    loader: DataLoader[tuple[Tensor, Tensor]],
    measures: Measures,
    *,
    device: torch.device,
    seed: int,
    processes: Processes | None = None,
    progress: Silent | None = None,
    label: str = "measuring",
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Means over all samples of a loader.

    Args:
        measures: a function of network, data and targets of a batch that returns values ``[B]`` by name.
        seed: the seed of noise in the network or its coding, so that the figure does not depend on what was computed
            before. Afterwards the generators are as they were.
        check: a function that is called after each batch; it may raise.

    The network is in eval mode meanwhile, and then back in the mode that it had, and each of its parts.

    >>> import torch
    >>> import spikeloom as sl
    >>> samples = sl.data.Samples(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 0, 0]), classes=("a",))
    >>> loader = sl.data.loaders((samples, samples), batch_size=2).test
    >>> measures = lambda net, x, y: {"mean": net(x).flatten()}
    >>> sl.runs.average(torch.nn.Identity(), loader, measures, device=torch.device("cpu"), seed=0)
    {'mean': 3.0}
    """
    net = unwrap(net)
    modes = [(part, part.training) for part in net.modules()]
    net.eval()
    progress = progress or Silent()
    sums: dict[str, Tensor] = {}
    count = 0
    loader.sampler.seek(0)  # type: ignore[attr-defined]  # the sampler is Batches
    progress.open(label, len(loader), 0)
    with ExitStack() as stack:
        stack.callback(progress.close)
        stack.callback(_back, modes)
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(torch.no_grad())
        torch.manual_seed(seed)
        for x, y in loader:
            found = measures(net, x.to(device), y.to(device))
            n = len(next(iter(found.values()), y))  # the first dimension of x and y need not be the batch
            for name, values in found.items():
                if values.shape != (n,):
                    raise ValueError(
                        f"measures: {name} must have a value for each sample, [B], got {list(values.shape)}"
                    )
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + values.double().sum().cpu()
            count += n
            progress.step()
            check()
    names = list(sums)
    totals = torch.stack([*sums.values(), torch.tensor(float(count), dtype=torch.float64)])
    if processes is not None:
        totals = processes.sum(totals)
    return {name: float(total / totals[-1]) for name, total in zip(names, totals[:-1], strict=True)}


def _back(modes: list[tuple[nn.Module, bool]]) -> None:
    """Puts a network, the first, and its parts into modes that they had; some may be in eval mode throughout."""
    net, training = modes[0]
    net.train(training)
    for part, training in modes:
        part.training = training

"""Methods: which neuron stands for an activation, with which threshold, and what a value is over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..neuron import IF, STBIF, FewSpike, Graded, HalfThreshold
from .errors import ConversionError
from .messages import Messages
from .sites import Site
from .temporal import Coding
from .waiting import Waiting

Thresholds = Literal["channel", "layer", "mse"] | Mapping[str, Any]
_ELEMENTWISE = """relu clip clamp qcfs leaky_relu gelu silu sigmoid tanh elu selu celu softplus mish hardswish
    hardsigmoid softsign logsigmoid"""


def _check_share(who: str, quantile: float) -> None:
    if not 0 < quantile <= 1:
        raise ValueError(f"{who}: quantile must be above 0 and at most 1, got {quantile}")


class Method:
    """Base of methods, which are frozen dataclasses.

    ``coding`` says what a value is: the mean over the steps of an input that is there at each of them (``"mean"``), the
    sum over the steps of an input that is there once (``"sum"``), or each step by itself (``"step"``). ``accepts``
    names the activations for which there is a neuron, and ``clips`` says whether outputs end at the threshold.

    >>> import spikeloom as sl
    >>> for method in (sl.convert.Rate(), sl.convert.Delta(), sl.convert.FewSpikes(), sl.convert.Exact()):
    ...     print(type(method).__name__, method.coding, method.alphabet, method.steps(), method.clips)
    Rate mean graded 32 True
    Delta sum power of two 4 False
    FewSpikes step K bits 1 False
    Exact sum ternary 60 True
    """

    coding: ClassVar[Coding]
    alphabet: ClassVar[str]
    accepts: ClassVar[tuple[str, ...]] = ("relu", "clip", "qcfs")
    clips: ClassVar[bool] = True
    delay: int = 0
    fold_scales: bool = False
    unit: bool = False
    pool: Literal["gate", "difference"] = "difference"

    def check(self, site: Site) -> None:
        """Raises ConversionError, with the remedy, where a site's activation has no neuron in this method."""
        if site.operation.name not in self.accepts:
            raise ConversionError(
                f"{type(self).__name__} has no neuron for {site}, whose values may be negative or fall: take Delta or "
                "FewSpikes, which have one for every activation, or give a rule"
            )

    def threshold_of(self, site: Site) -> Tensor:
        """The threshold or scale of a site, one value or one for each channel, in float64."""
        raise NotImplementedError

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """The module in place of the site's activation."""
        raise NotImplementedError

    def ideal(self, a: Tensor, theta: Tensor, T: int) -> Tensor | None:
        """What a neuron gives in T steps for an input ``a`` that comes evenly; None where there is no closed form."""
        return None

    def steps(self) -> int:
        """The number of steps that a report is made at, where none is given."""
        return 32


@dataclass(frozen=True, kw_only=True)
class Rate(Method):
    """Rate coding: integrate-and-fire neurons with soft reset, whose mean output is the activation.

    In T steps of a constant input x a neuron gives ``theta / T clamp(floor(T x / theta + v_init), 0, T)``.

    Args:
        threshold: ``"channel"``: the ``quantile`` of the activations of each channel; ``"layer"``: of all together;
            ``"mse"``: what T steps lose the least by in each channel, in the mean square. A dict gives the thresholds
            of all sites by path, one value or one for each channel; where an activation ends below (ReLU6), so does
            its threshold.
        quantile: from 0 to 1; 1 is the largest activation.
        v_init: the voltage at the beginning, in thresholds; 1/2 rounds, 0 rounds down.
        T: the number of steps, for ``"mse"``.
        delay: steps at the beginning that the mean leaves out, since deep layers have their input only then.
        fold_scales: move thresholds into the weights behind, so that neurons send 0 and 1.
        unit: move them into the weights before as well, so that neurons have the threshold 1: where a layer is
            directly before a neuron that sends 0 and 1. Networks of one model then differ in weights alone.
        pool: what max pools become: ``"gate"`` lets the spikes of the largest input pass (:class:`Pool`);
            ``"difference"`` sends what the maximum of the means changes by.

    Thresholds that were trained (:class:`QCFS`) are taken as they are. Diehl et al., Fast-classifying, high-accuracy
    spiking deep networks through weight and threshold balancing, IJCNN 2015; Rueckauer et al., Frontiers in
    Neuroscience 11, 2017 (quantiles); Bu et al., ICLR 2022 (v_init).
    """

    threshold: Thresholds = "channel"
    quantile: float = 0.999
    v_init: float = 0.5
    T: int | None = None
    delay: int = 0
    fold_scales: bool = True
    unit: bool = False
    pool: Literal["gate", "difference"] = "gate"
    coding: ClassVar[Coding] = "mean"
    alphabet: ClassVar[str] = "graded"

    def __post_init__(self) -> None:
        named = isinstance(self.threshold, Mapping)
        if not named and self.threshold not in ("channel", "layer", "mse"):
            raise ValueError(f"Rate: threshold must be channel, layer, mse or a dict, got {self.threshold!r}")
        _check_share("Rate", self.quantile)
        if self.threshold == "mse" and self.T is None:
            raise ValueError("Rate: threshold='mse' needs the number of steps, T=...")
        if self.pool not in ("gate", "difference"):
            raise ValueError(f"Rate: pool must be gate or difference, got {self.pool!r}")
        if self.unit and not self.fold_scales:
            raise ValueError("Rate: unit=True needs fold_scales=True: what a spike is worth has to move too")
        if self.delay < 0:
            raise ValueError(f"Rate: delay must be at least 0, got {self.delay}")

    def threshold_of(self, site: Site) -> Tensor:
        """The threshold of a site."""
        chosen = _chosen(self.threshold, site)
        if chosen is not None:
            return chosen
        if self.threshold == "mse":
            return positive(site.histogram.least_error(self.T or 1, self.v_init), site)
        return positive(_quantile(site, self.quantile, whole=self.threshold == "layer"), site)

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """``Graded(HalfThreshold(IF))``: it begins at a part of its threshold, and spikes are worth the threshold."""
        theta = site.number(threshold)
        return Graded(HalfThreshold(IF(v_threshold=theta, reset="soft"), fraction=self.v_init), factor=theta)

    def ideal(self, a: Tensor, theta: Tensor, T: int) -> Tensor | None:
        """``theta / T clamp(floor(T a / theta + v_init), 0, T)``."""
        return torch.floor(T * a / theta + self.v_init).clamp(0, T) * theta / T

    def steps(self) -> int:
        """``T`` where it is given."""
        return 32 if self.T is None else self.T


@dataclass(frozen=True, kw_only=True)
class Balanced(Rate):
    """:class:`Rate` with thresholds that are balanced by overflow: ``theta += 2 mean(relu(a - theta))`` for each batch.

    Args:
        updates: how many batches it takes; the calibration data are gone through again and again. Few leave thresholds
            too low.
        others: as those of :class:`Rate`; ``threshold`` and ``quantile`` are not used.

    The mean is over a batch of activations of a channel; theta begins at 0, and layers behind see activations that are
    clipped at theta. Bu et al., Inference-scale complexity in ANN-SNN conversion, CVPR 2025.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> model, method = torch.nn.Sequential(torch.nn.ReLU()), sl.convert.Balanced(updates=1)
    >>> found = sl.convert.convert(model, method, example=x, readout="spikes")
    >>> found.report.layers[0].threshold.tolist()  # 0 + 2 (1 + 3) / 2
    [4.0]
    """

    updates: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.updates < 1:
            raise ValueError(f"Balanced: updates must be at least 1, got {self.updates}")


@dataclass(frozen=True)
class Calibrated(Method):
    """A :class:`Rate` that is corrected, for T steps, by what each layer lacks of the model's activation.

    Args:
        base: the method that gives thresholds; None: ``Rate(threshold="mse", T=T)``.
        T: the number of steps for which it is calibrated.
        rounds: how often all layers are gone through.
        weights: whether weights are corrected too, by least squares of each layer; else biases alone.
        voltages: whether then voltages at the beginning are, within 0 and the threshold.

    It goes from front to back. With e what the decoded output of a neuron lacks on the calibration data, the weights
    and the bias of the convolution or linear layer whose output it gets, by itself or in a sum, change by the linear
    function of the layer's decoded input that is nearest to e, with a penalty that is chosen on halves of the data: the
    fewer there are, the less do weights change. Without ``weights``, the bias rises by the mean of e of each channel.
    Then the first voltage rises by T times the mean of e that is left. Neurons without such a layer have the last
    alone; where that is not asked for they keep their error, and the report says so.

    Li et al., A free lunch from ANN: towards efficient, accurate spiking neural networks calibration, ICML 2021:
    biases and voltages are its light pipeline; least squares are in place of the descents of its advanced one.
    """

    base: Rate | None = None
    T: int = 16
    rounds: int = 1
    weights: bool = True
    voltages: bool = True
    coding: ClassVar[Coding] = "mean"
    alphabet: ClassVar[str] = "graded"

    def __post_init__(self) -> None:
        if not isinstance(self.base, Rate | None):
            raise TypeError(f"Calibrated: the base must be Rate or Balanced, got {type(self.base).__name__}")
        if self.T < 1 or self.rounds < 1:
            raise ValueError(f"Calibrated: T and rounds must be at least 1, got {self.T} and {self.rounds}")
        rate = self.rate
        if rate.delay >= self.T:
            raise ValueError(f"Calibrated: T must be more than the delay of its base, {rate.delay}, got {self.T}")
        for name in ("delay", "fold_scales", "unit", "pool"):
            object.__setattr__(self, name, getattr(rate, name))

    @property
    def rate(self) -> Rate:
        """The base, given or not."""
        return Rate(threshold="mse", T=self.T) if self.base is None else self.base

    def threshold_of(self, site: Site) -> Tensor:
        """That of the base."""
        return self.rate.threshold_of(site)

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """That of the base."""
        return self.rate.neuron(site, threshold)

    def ideal(self, a: Tensor, theta: Tensor, T: int) -> Tensor | None:
        """That of the base."""
        return self.rate.ideal(a, theta, T)

    def steps(self) -> int:
        """``T``."""
        return self.T


@dataclass(frozen=True, kw_only=True)
class Delta(Method):
    """Every activation sends what it changes by, as powers of two with a sign: :class:`Messages`.

    Args:
        levels: how many powers of two there are.
        quantile: the scale is this quantile of the absolute activations, of each channel.

    There is nothing to train, and any elementwise activation has a neuron. Functions of several values (softmax, norms,
    attention, products, max pools) are computed on the sums of what was sent, exactly (:class:`Difference`).
    """

    levels: int = 8
    quantile: float = 0.999
    coding: ClassVar[Coding] = "sum"
    alphabet: ClassVar[str] = "power of two"
    accepts: ClassVar[tuple[str, ...]] = tuple(_ELEMENTWISE.split())
    clips: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("Delta", self.quantile)
        if self.levels < 1:
            raise ValueError(f"Delta: levels must be at least 1, got {self.levels}")

    def threshold_of(self, site: Site) -> Tensor:
        """The largest message."""
        return positive(_quantile(site, self.quantile), site)

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """``Messages`` with the activation inside."""
        return Messages(activation=site.function(), scale=site.number(threshold), levels=self.levels)

    def steps(self) -> int:
        """Four."""
        return 4


@dataclass(frozen=True, kw_only=True)
class Exact(Method):
    """Neurons that settle at the quantised ReLU, ``theta / levels clamp(floor(levels x / theta + 1/2), 0, levels)``.

    Args:
        levels: steps of the quantisation.
        threshold: as in :class:`Rate`: ``"channel"``, ``"layer"``, or a dict.
        quantile: as in :class:`Rate`.

        mode: ``"settle"``: each site becomes :class:`spikeloom.STBIF`, which sends positive and negative spikes; after
            two to eight times ``levels`` steps the decoded output is that of the quantised network, and before, it
            means nothing. ``"two_phase"``: :class:`Waiting`, which fires when all of its input is there; it has as many
            levels as there are steps, whatever ``levels`` says, is exact for each T, and cannot be streamed.

    Values are multiples of ``theta / levels``, so that ties are common: compare in float64, with thresholds that are no
    simple fractions. You et al., SpikeZIP-TF, ICML 2024.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[0.7], [2.3], [4.0], [-1.0]])
    >>> model, method = torch.nn.Sequential(torch.nn.ReLU()), sl.convert.Exact(levels=4, quantile=1.0)
    >>> found = sl.convert.convert(model, method, example=x, readout="spikes")
    >>> found(x, T=16).flatten()  # rounded to a whole number: 4 levels up to the largest value, 4
    tensor([1., 2., 4., 0.])
    """

    levels: int = 15
    threshold: Thresholds = "channel"
    quantile: float = 0.999
    mode: Literal["settle", "two_phase"] = "settle"
    coding: ClassVar[Coding] = "sum"
    alphabet: ClassVar[str] = "ternary"

    def __post_init__(self) -> None:
        _check_share("Exact", self.quantile)
        if self.levels < 1:
            raise ValueError(f"Exact: levels must be at least 1, got {self.levels}")
        if not isinstance(self.threshold, Mapping) and self.threshold not in ("channel", "layer"):
            raise ValueError(f"Exact: threshold must be channel, layer or a dict, got {self.threshold!r}")
        if self.mode not in ("settle", "two_phase"):
            raise ValueError(f"Exact: mode must be settle or two_phase, got {self.mode!r}")

    def threshold_of(self, site: Site) -> Tensor:
        """The largest output."""
        chosen = _chosen(self.threshold, site)
        if chosen is not None:
            return chosen
        return positive(_quantile(site, self.quantile, whole=self.threshold == "layer"), site)

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """``STBIF`` whose spikes are worth ``threshold / levels``, or ``Waiting``."""
        if self.mode == "two_phase":
            return Waiting(v_threshold=site.number(threshold))
        return STBIF(v_threshold=site.number(threshold / self.levels), most=self.levels)

    def ideal(self, a: Tensor, theta: Tensor, T: int) -> Tensor | None:
        """The quantised activation."""
        levels = T if self.mode == "two_phase" else self.levels
        return torch.floor(levels * a / theta + 0.5).clamp(0, levels) * theta / levels

    def steps(self) -> int:
        """Four times ``levels``, by which networks of some depth have settled; ``levels`` of two phases."""
        return self.levels if self.mode == "two_phase" else 4 * self.levels


@dataclass(frozen=True, kw_only=True)
class FewSpikes(Method):
    """Each activation as K binary spikes within one step: :class:`spikeloom.FewSpike`, fitted to it.

    Args:
        K: spikes of a neuron.
        tables: straight pieces that the activation is fitted by, over the range of inputs seen in calibration.

    Every step is computed by itself, so T = 1 suffices, and everything else stays as it is. Stoeckl and Maass, Nature
    Machine Intelligence 3, 2021.

    >>> import torch
    >>> import spikeloom as sl
    >>> x = torch.tensor([[0.6], [1.6], [3.0], [4.0], [-1.0]])
    >>> model, method = torch.nn.Sequential(torch.nn.ReLU()), sl.convert.FewSpikes(K=4, tables=1)
    >>> found = sl.convert.convert(model, method, example=x, readout="spikes")
    >>> found(x, T=1).flatten()  # in one step: three bits, worth 2, 1 and 1/2
    tensor([0.5000, 1.5000, 3.0000, 3.5000, 0.0000])
    """

    K: int = 8
    tables: int = 8
    coding: ClassVar[Coding] = "step"
    alphabet: ClassVar[str] = "K bits"
    accepts: ClassVar[tuple[str, ...]] = tuple(_ELEMENTWISE.split())
    clips: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.K < 2 or self.tables < 1:
            raise ValueError(f"FewSpikes: K must be at least 2 and tables at least 1, got {self.K} and {self.tables}")

    def threshold_of(self, site: Site) -> Tensor:
        """The largest absolute input, which the tables reach to."""
        return torch.tensor([max(abs(site.inputs.low), abs(site.inputs.high), 2.0**-20)], dtype=torch.float64)

    def neuron(self, site: Site, threshold: Tensor) -> nn.Module:
        """A fitted ``FewSpike``."""
        low, high = min(site.inputs.low, 0.0), max(site.inputs.high, 2.0**-20)
        if site.operation.name in ("relu", "clip", "qcfs"):
            low = 0.0  # below, the first table's value at 0 holds
        with torch.no_grad():
            return FewSpike.fit(site.function(), low, high, K=self.K, tables=self.tables)

    def steps(self) -> int:
        """One."""
        return 1


def _quantile(site: Site, q: float, *, whole: bool = False) -> Tensor:
    return site.histogram.whole().quantile(q) if whole else site.histogram.quantile(q)


def positive(found: Tensor, site: Site) -> Tensor:
    """Thresholds; channels that never fired in calibration have that of the largest one."""
    if site.operation.most is not None:
        found = found.clamp(max=site.operation.most)
    most = found.max()
    return torch.where(found > 0, found, most if most > 0 else torch.ones_like(most))


def _chosen(threshold: Thresholds, site: Site) -> Tensor | None:
    """The threshold of a site that was given or learned; None where data have to say."""
    return site.learned() if isinstance(threshold, str) else _given(threshold, site)


def _given(thresholds: Mapping[str, Any], site: Site) -> Tensor:
    if site.path not in thresholds:
        raise ConversionError(f"threshold has nothing for {site}; it has {', '.join(map(repr, thresholds))}")
    found = torch.as_tensor(thresholds[site.path], dtype=torch.float64).detach().cpu().reshape(-1)
    if found.numel() not in (1, site.channels) or not bool((found > 0).all()):
        raise ConversionError(
            f"the threshold of {site} must be one positive value or {site.channels}, got {found.numel()} values of "
            f"which the least is {float(found.min()):.4g}"
        )
    return found if site.operation.most is None else found.clamp(max=site.operation.most)

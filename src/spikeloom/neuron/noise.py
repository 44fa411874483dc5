"""Noisy: noise in the input, the threshold or the output of any neuron; noise in the threshold is an escape rate.

    charge with x + sigma_i n,  fire at u + sigma_t n >= 0,  y = s + sigma_o n

Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, chapter 9 (escape rates); Timmer and Koenig, On
generating power law noise, Astronomy and Astrophysics 300, 1995; Chen et al., Noisy spiking actor network for
exploration, arXiv:2403.04162.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._numbers import Number
from ..core import Late, Repeated, Sequence, State
from ..kernel import Norm, state_dtype
from .base import Dynamics
from .options import Option, moved

Distribution = Literal["gaussian", "logistic", "gumbel"]
_PLACES = ("input", "threshold", "output")


class Noisy(Option):
    """Noise n of its own at every step, in up to three places: ``x + input n``, ``u + threshold n``, ``s + output n``.

    Args:
        neuron: any neuron; one that fires once a step where there is noise in the threshold.
        input, threshold, output: strength of the noise there; floats, tensors or parameters (their gradients are
            exact); None is no noise.
        distribution: ``"gaussian"``, ``"logistic"`` or ``"gumbel"``. In the threshold it is the escape rate: a neuron
            at ``u = h - v_threshold`` fires with the probability Phi(u / threshold), ``1 / (1 + exp(-u / threshold))``
            or ``1 - exp(-exp(u / threshold))``.
        exponent: b of a power spectrum 1/f^b over the steps of a sequence (Gaussian noise only): 0 is white, 1 pink, 2
            brown. Noise with another exponent than 0 is drawn for a whole sequence: while there is such noise, the
            neuron is not causal, so that streams and split runs raise.
        always: False: noise in training only; True: in evaluation too.

    Noise comes from torch's generator of the input's device: ``torch.manual_seed`` repeats it. Noisy must be the
    outermost option. Input and output are ``[T, B, *]``; the states are the inner neuron's.

    >>> import torch
    >>> import spikeloom as sl
    >>> inner = sl.IF(v_threshold=1.0, reset="none")
    >>> neuron = sl.options.Noisy(inner, threshold=0.5, distribution="logistic", always=True)
    >>> x = torch.zeros(1, 10_000)
    >>> y, _ = neuron.sequence(x)
    >>> abs(y.mean().item() - 1 / (1 + 2.718281828**2)) < 0.02
    True
    """

    paper = "Gerstner, Kistler, Naud and Paninski, Neuronal Dynamics, 2014, chapter 9"
    nestable: ClassVar[bool] = False
    sigma_input: Tensor
    sigma_threshold: Tensor
    sigma_output: Tensor

    def __init__(
        self,
        neuron: Dynamics,
        *,
        input: Number | None = None,  # noqa: A002  # where the noise is
        threshold: Number | None = None,
        output: Number | None = None,
        distribution: Distribution = "gaussian",
        exponent: float = 0.0,
        always: bool = False,
    ) -> None:
        super().__init__(neuron)
        if distribution not in ("gaussian", "logistic", "gumbel"):
            raise ValueError(f"Noisy: distribution must be gaussian, logistic or gumbel, got {distribution!r}")
        if exponent and distribution != "gaussian":
            raise ValueError(f"Noisy: only gaussian noise has another exponent than 0, got {distribution!r}")
        given = {"input": input, "threshold": threshold, "output": output}
        self.places = tuple(place for place in _PLACES if given[place] is not None)
        if not self.places:
            raise ValueError("Noisy: give the strength of the noise as input, threshold or output")
        self.numbers(**{f"sigma_{place}": given[place] for place in self.places})  # type: ignore[arg-type]
        self.distribution, self.exponent, self.always = distribution, float(exponent), always

    @property
    def is_binary(self) -> bool:  # type: ignore[override]
        """Whether the output is 0 or 1."""
        return "output" not in self.places and self.neuron.is_binary

    @property
    def causal(self) -> bool:  # type: ignore[override]
        """Whether the noise of a step, if there is any now, is drawn without knowing how many steps there are."""
        return self.exponent == 0.0 or not self.noisy

    @property
    def noisy(self) -> bool:
        """Whether there is noise now."""
        return self.always or self.training

    @property
    def packed(self) -> bool:
        """See :class:`Dynamics`; without noise it is the inner neuron that runs."""
        return self._packed

    @packed.setter
    def packed(self, value: bool) -> None:
        Dynamics.packed.__set__(self, value)  # type: ignore[attr-defined]  # of a property, which mypy does not see
        self.neuron.packed = self._packed and self.neuron.is_binary

    def dynamics(self, x: Tensor, *noise_and_states: Tensor) -> tuple[Tensor, ...]:
        noise = dict(zip(self.places, noise_and_states, strict=False))
        states = noise_and_states[len(noise) :]
        if "input" in noise:
            x = x + self.sigma_input * noise["input"]
        if "threshold" in noise:
            in_threshold = self.sigma_threshold * noise["threshold"]
            spike, *new = moved(self.neuron, lambda u: u + in_threshold, "Noisy", x, *states)
        else:
            spike, *new = self.neuron.dynamics(x, *states)
        if "output" in noise:
            spike = spike + self.sigma_output * noise["output"]
        return spike, *new

    def absorb(self, previous: nn.Module | Late) -> Sequence | None:
        """A batch norm joins the inner neuron's kernel while there is no noise."""
        return None if self.noisy else self.neuron.absorb(previous)

    def step(self, *x_t: Tensor, state: State = None) -> tuple[Tensor, dict[str, Tensor]]:
        """One step of ``[B, *]``: ``(spikes, state)``."""
        if not self.noisy:
            y, new = self.neuron.step(*x_t, state=state)
            return y, new
        self._check_step(x_t)
        y, final = self._one_step((*x_t, *(noise[0] for noise in self._draw(1, x_t[0]))), state, u=False)
        return y, dict(zip(self._rest, final, strict=True))

    def recorded_step(
        self, *x_t: Tensor, state: State = None, record: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """:meth:`step`, and ``{name: [B, *]}`` of the names in ``record``."""
        if not self.noisy:
            return self.neuron.recorded_step(*x_t, state=state, record=record)
        noise = (noise[0] for noise in self._draw(1, x_t[0]))
        return super().recorded_step(*x_t, *noise, state=state, record=record)

    def _sequence(
        self,
        xs: tuple[Tensor | Repeated, ...],
        state: State,
        lengths: Tensor | None,
        record: tuple[str, ...],
        norm: Norm | None,
    ) -> tuple[Any, ...]:
        self.check_record(record)
        if not self.noisy:
            return self.neuron._sequence(xs, state, lengths, record, norm)
        x = xs[0]
        T, x_t = (x.T, x.x) if isinstance(x, Repeated) else (x.shape[0], x[0]) if len(x) else (0, x)
        return super()._sequence((*xs, *self._draw(T, x_t)), state, lengths, record, norm)

    def _draw(self, T: int, x_t: Tensor) -> list[Tensor]:
        dtype = state_dtype(x_t.dtype)
        return [draw((T, *x_t.shape), self.distribution, self.exponent, dtype, x_t.device) for _ in self.places]


def draw(
    shape: tuple[int, ...], distribution: Distribution, exponent: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Standard noise of a shape ``[T, *]``; with an exponent, variance 1 and spectrum 1/f^exponent over T."""
    if distribution != "gaussian":
        u = torch.rand(shape, dtype=dtype, device=device).clamp(torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps)
        return torch.logit(u) if distribution == "logistic" else -torch.log(-torch.log(u))
    T = shape[0]
    if exponent == 0.0 or T < 2:
        return torch.randn(shape, dtype=dtype, device=device)
    frequency = torch.fft.rfftfreq(T, dtype=dtype, device=device)
    frequency[0] = frequency[1]  # the mean is part of the slowest wave
    amplitude = frequency ** (-exponent / 2)
    waves = torch.randn((len(amplitude), *shape[1:], 2), dtype=dtype, device=device)
    share = torch.full_like(amplitude, 4.0)  # what a wave adds to T^2 times the variance: cosine and sine, +f and -f
    share[0], waves[0, ..., 1] = 1.0, 0.0  # the mean has neither
    if T % 2 == 0:
        share[-1], waves[-1, ..., 1] = 1.0, 0.0  # nor has the fastest wave
    spectrum = torch.view_as_complex(waves) * amplitude.view(-1, *(1,) * (len(shape) - 1))
    noise: Tensor = torch.fft.irfft(spectrum, n=T, dim=0)
    return noise.mul_(T / (share * amplitude.square()).sum().sqrt())

"""EProp: a recurrent layer whose feedback passes no gradient, and random feedback of errors (e-prop).

    y[t] = neuron(x[t] + feedback(y[t-1]))        no gradient through y[t-1]

Bellec et al., A Solution to the Learning Dilemma for Recurrent Networks of Spiking Neurons, Nature Communications 11,
2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core import State
from ..neuron import Dynamics
from ..nn import Recurrent


class EProp(Recurrent):
    """Recurrent neurons whose own spikes pass no gradient back: ``y[t] = neuron(x[t] + W detach(y[t-1]))``.

    Args:
        neuron: any neuron.
        feedback: ``nn.Linear(F, F)``.

    The gradient of this is that of e-prop: a synapse learns from its eligibility, the derivative of the neuron's own
    state by its weight, and from what the loss says of the neuron's spikes at once. With ``online(...,
    method="eligibility")`` it is computed forward in time, in memory that does not grow with T. The error comes back
    through the weights of the layers that follow (symmetric feedback); :class:`RandomFeedback` sends it through fixed
    random ones. Inputs, outputs and states are those of :class:`spikeloom.nn.Recurrent`.

    >>> import torch
    >>> import spikeloom as sl
    >>> net = sl.Network(torch.nn.Linear(3, 5), sl.learn.EProp(sl.LIF(), torch.nn.Linear(5, 5)), torch.nn.Linear(5, 2))
    >>> for piece in sl.learn.online(net, torch.rand(6, 4, 3), lambda y, t0: y.sum(), method="eligibility"):
    ...     pass
    >>> net.body[1].feedback.weight.grad.shape
    torch.Size([5, 5])
    """

    paper = "Bellec et al., A Solution to the Learning Dilemma for Recurrent Networks of Spiking Neurons, 2020"

    def __init__(self, neuron: Dynamics, feedback: nn.Linear) -> None:
        if type(feedback) is not nn.Linear:
            raise TypeError(f"EProp: feedback must be an nn.Linear, got {type(feedback).__name__}")
        super().__init__(neuron, feedback)

    def _step(self, x: Tensor, state: State, feed: Any, record: tuple[str, ...] = ()) -> tuple[Any, ...]:
        return super()._step(x, {**state, "fed_back": state["fed_back"].detach()}, feed, record)


class RandomFeedback(nn.Linear):
    """A linear layer whose error comes back by random weights B: ``y = W x + b``, ``dL/dx = B^T dL/dy``.

    Args:
        in_features, out_features, bias: as of ``nn.Linear``.
        adaptive: B is a parameter, and has the gradient of W: with a weight decay of the optimiser both forget what
            they began with, and B goes to W (adaptive e-prop). Otherwise it stays what was drawn.

    B, ``feedback``, is drawn as the weight is, and saved with it.

    Lillicrap et al., Random Synaptic Feedback Weights Support Error Backpropagation for Deep Learning, Nature
    Communications 7, 2016; Kolen and Pollack, Backpropagation without Weight Transport, ICNN 1994 (adaptive).

    >>> import torch
    >>> import spikeloom as sl
    >>> layer, x = sl.learn.RandomFeedback(3, 2), torch.ones(1, 3, requires_grad=True)
    >>> layer(x).sum().backward()
    >>> torch.equal(x.grad[0], layer.feedback.sum(0))
    True
    """

    feedback: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, adaptive: bool = False) -> None:
        super().__init__(in_features, out_features, bias)
        drawn = torch.empty_like(self.weight.detach())
        nn.init.uniform_(drawn, -(in_features**-0.5), in_features**-0.5)
        if adaptive:
            self.feedback = nn.Parameter(drawn)
        else:
            self.register_buffer("feedback", drawn)

    @property
    def adaptive(self) -> bool:
        """Whether B learns."""
        return "feedback" in self._parameters

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[*, in_features]`` to ``[*, out_features]``."""
        y = functional.linear(x.detach(), self.weight, self.bias)
        if not torch.is_grad_enabled():
            return y
        if x.requires_grad:
            back = functional.linear(x, self.feedback.detach())
            y = y + (back - back.detach())
        if self.feedback.requires_grad:
            own = functional.linear(x.detach(), self.feedback)
            y = y + (own - own.detach())
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, adaptive={self.adaptive}"

"""Pictures of what a network is made of: surrogates, neurons, weights."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..core import TemporalModule
from ..surrogate import Surrogate
from .given import check_whole, evenly, kind, number, thinned, values_of
from .look import BLUE, GREY, INK, PALE, axes_or_new, colours_of, round_ticks, steps_to_the_right, styled
from .maps import feature_maps
from .states import neuron, traces


@styled
def surrogate(surrogate: Surrogate, *, span: float = 2.0, ax: Axes | None = None, title: str | None = None) -> Axes:
    """A surrogate over the voltage less the threshold, from ``-span`` to ``span``: the step of the forward pass, the
    derivative that stands in for that of the step, and its primitive if the surrogate has one. None as the title is the
    surrogate's name.

    >>> import spikeloom as sl
    >>> ax = sl.plot.surrogate(sl.surrogate.ATan(2.0))
    >>> {line.get_label(): float(line.get_ydata().max()) for line in ax.lines[1:]}  # the largest slope is a / 2
    {'step': 1.0, 'derivative': 1.0}
    """
    who = "plot.surrogate"
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"{who}: expected a surrogate such as sl.surrogate.ATan(), got {kind(surrogate)}")
    if not 0 < number(span, who, "span") < float("inf"):
        raise ValueError(f"{who}: span must be positive and finite, got {span}")
    device = surrogate.scale.device
    with torch.enable_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        u = torch.linspace(-span, span, 801, device=device, requires_grad=True)
        (slope,) = torch.autograd.grad(surrogate(u).sum(), u)
        try:
            smooth = values_of(surrogate.primitive(u, surrogate.scale), who)
        except NotImplementedError:
            smooth = None
    ax = axes_or_new(ax, width=5.0)
    at = values_of(u, who)
    if smooth is not None:
        ax.plot(at.numpy(), smooth.numpy(), color=PALE, label="primitive")
    ax.plot(at.numpy(), (at >= 0).double().numpy(), color=INK, lw=0.9, ls="--", label="step")
    ax.plot(at.numpy(), values_of(slope, who).numpy(), color=BLUE, lw=2.0, label="derivative")
    ax.set(xlabel="voltage less the threshold")
    ax.set_title(type(surrogate).__name__ if title is None else title)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


@styled
def neuron_response(
    module: TemporalModule, x: Tensor | None = None, *, T: int = 100, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """What one neuron does with an input: its voltage with spikes and threshold, and the input in grey (right axis).

    Args:
        module: a neuron, or a module like one, which runs in eval mode. It is as it was afterwards.
        x: the input ``[T]``; None is a current of 1.5 from a fifth of the steps on, for T steps.
        title: the title; None is the neuron's name.

    The voltage goes up to what it was before the reset where the neuron records that, and the threshold is drawn where
    it is one number that does not move (see :func:`neuron`); of a neuron without ``v`` its first state is drawn.

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.neuron_response(sl.IF(), torch.full((5,), 0.5))
    >>> ax.lines[0].get_ydata().tolist(), ax.get_title(loc="left")
    ([0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5], 'IF')
    """
    who = "plot.neuron_response"
    if not isinstance(module, TemporalModule):
        raise TypeError(f"{who}: expected a neuron such as sl.LIF(), got {kind(module)}")
    check_whole(who, T=T)
    course = values_of((torch.arange(T) >= T // 5) * 1.5 if x is None else x, who).float().squeeze()
    if course.ndim != 1 or course.numel() == 0:
        raise ValueError(f"{who}: expected the input of one neuron, [T] with T > 1, got {list(course.shape)}")
    ax = axes_or_new(ax)
    y, seen = _run(module, course)
    title = type(module).__name__ if title is None else title
    binary = bool(getattr(module, "is_binary", False))
    if binary and "v" in seen:
        level, u = _threshold(module, y, seen)
        neuron(seen["v"], y, level, u=u, ax=ax, title=title)
    else:
        name = next((name for name in seen if name != "u"), "output")
        lines = seen.get(name, y).reshape(len(y), -1)[:, :1]
        spikes = y.reshape(len(y), -1)[:, :1] if binary else None
        traces(lines, spikes=spikes, labels=[""], ylabel=name, ax=ax, title=title)
    behind = ax.twinx()
    behind.plot(course.numpy(), color=PALE, lw=1.0, zorder=0)
    behind.spines["right"].set_visible(True)
    behind.set_ylabel("input", color=GREY)
    behind.tick_params(axis="y", colors=GREY)
    steps_to_the_right(ax, len(y))
    if ax.get_legend() is not None:  # the right side belongs to the input
        ax.legend(loc="lower right", bbox_to_anchor=(1.02, 0.98), ncols=3, columnspacing=1.2)
    return ax


def _threshold(module: TemporalModule, y: Tensor, seen: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """The threshold of a neuron, and its voltage before the reset less that; None for what is not known.

    Where no spike resets it, ``v`` is ``u`` and the threshold; where one does, ``v`` is what a hard reset goes to, or
    ``u``, from which a soft reset has taken the threshold. If that is not so, the threshold moves.
    """
    level, u, v = getattr(module, "v_threshold", None), seen.get("u"), seen["v"]
    if not isinstance(level, Tensor) or level.numel() != 1 or u is None or u.shape != v.shape:
        return level if isinstance(level, Tensor) and level.numel() == 1 else None, None
    fired = y.reshape(v.shape) != 0
    after, before = v[fired], u[fired]
    near = partial(torch.allclose, rtol=1e-3, atol=1e-4)
    fixed = near(v[~fired], (u + level)[~fired]) and (near(after, after[:1].expand_as(after)) or near(after, before))
    return (level, u) if fixed else (None, None)


def _run(module: TemporalModule, course: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs and states of a neuron for an input ``[T]``; nothing of the neuron or of the generators changes."""
    first = next(iter((*module.parameters(), *module.buffers())), None)
    device = torch.device("cpu") if first is None else first.device
    state = next((name for name in module.recordable if name == "v"), next(iter(module.recordable), None))
    wanted = [name for name in (state, "u") if name in (*module.recordable, *module.recordable_by_name)]
    wanted = wanted if state == "v" and "u" not in module.recordable else wanted[:1]
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            y, _, *recorded = module.eval().sequence(course.to(device).view(-1, 1, 1), record=tuple(wanted))
    finally:
        module.train(modes[0][1])
        for part, training in modes:
            part.training = training
    return y, recorded[0] if recorded else {}


@styled
def weights(w: Tensor | nn.Module, *, max_channels: int = 64, ax: Axes | None = None, title: str = "") -> Axes:
    """Weights of a layer, blue below and red above 0: ``[out, in]`` as one image, ``[out, in, H, W]`` as a column
    of kernels for each output; of one input, in as many rows as fit.

    ``w`` may be a module with a ``weight``. Of more outputs or inputs than ``max_channels``, kernels are thinned
    evenly, and the title says so.

    >>> import torch
    >>> import spikeloom as sl
    >>> ax = sl.plot.weights(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
    >>> ax.images[0].get_clim()  # equally far to both sides, so that white is 0
    (-2.0, 2.0)
    """
    who = "plot.weights"
    values = values_of(getattr(w, "weight", w) if isinstance(w, nn.Module) else w, who)
    if values.ndim not in (2, 4) or values.numel() == 0:
        raise ValueError(
            f"{who}: expected weights [out, in] or [out, in, H, W], none of them 0, got {list(values.shape)}"
        )
    check_whole(who, max_channels=max_channels)
    if values.ndim == 4:
        out, into = values.shape[:2]
        columns, rows = evenly(out, max_channels), evenly(into, max_channels)
        title = thinned(thinned(title, len(columns), out, "outputs"), len(rows), into, "inputs")
        kernels = values[columns][:, rows].transpose(0, 1).flatten(0, 1)
        most, beside = len(kernels), len(columns) if len(rows) > 1 else None
        return feature_maps(kernels, columns=beside, max_channels=most, label="weight", ax=ax, title=title)
    ax = axes_or_new(ax)
    image = ax.imshow(values.numpy(), aspect="auto", **colours_of(values))
    ax.figure.colorbar(image, ax=ax, label="weight", pad=0.02)
    round_ticks(ax.xaxis)
    round_ticks(ax.yaxis, 6)
    ax.set(xlabel="input", ylabel="output")
    ax.set_title(title)
    return ax

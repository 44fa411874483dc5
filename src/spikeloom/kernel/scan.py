"""scan: the one call through which every neuron's sequence runs, and which chooses what runs it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._tracing import exporting
from ..core import active
from ..core.recording import without_gradient
from ..native.build import BuildError
from . import compiled, launch, op
from .backend import BackendError, chosen, debugging, is_watched, note, say_once, transformed
from .check import check_call
from .compiled import Kernels
from .loop import full_precision, scan_eager, scan_exported, step_eager
from .norm import KINDS, Norm
from .request import AsSpikes, Found, Request, States
from .target import Target
from .targets import target_for
from .triton.target import TRITON, USUAL

_PLAIN = (Tensor, nn.Parameter)


class _Ready(NamedTuple):
    """What is to run a request."""

    target: Target
    kernels: Kernels
    request: Request
    """As the kernels run it: without a norm that they cannot join."""
    said: str
    """What is noted of it."""


def scan(neuron: Any, request: Request) -> Found:
    """Runs ``neuron.dynamics`` over time: by kernels, under ``torch.compile`` by an operator, else by the loop."""
    ready = None if torch.compiler.is_compiling() else _ready(neuron, request)
    if ready is not None:
        request, found = ready.request, _by_kernels(neuron, ready)
        if found is not None:
            return (*found[:2], tuple([without_gradient(r, _why_no_gradient(neuron)) for r in found[2]]))
    request = _normalised(request)
    if torch.compiler.is_compiling() and not exporting():
        changes = sum(part._changes for _, part in neuron.parts())
        modes = tuple(part.training for _, part in neuron.parts())
        read = id(neuron), changes, modes
        text = neuron._program_text(read, request.repeated, request.record, request.device.type, request.u)
        if text and request.tensors[0].numel():
            return op.run(text, neuron.all_numbers(request.step, request.dtype), request)
    bound = neuron.bind(request.step, request.dtype)
    with full_precision(request.device):
        if exporting() and request.lengths is None and not request.record:
            return scan_exported(bound, request)
        return scan_eager(bound, request)


def one_step(neuron: Any, request: Request) -> tuple[Tensor, States]:
    """Runs a request for one step; returns the spikes and the new states, ``[B, *]``.

    A kernel that runs one step saves the dozen operations of the equation; torch.compile fuses them itself.
    """
    ready = None if torch.compiler.is_compiling() else _ready(neuron, request)
    found = None if ready is None else _by_kernels(neuron, ready)
    if found is not None and request.u:  # states go on to the next step, and u does not
        *states, u = found[1]
        found = found[0], (*states, without_gradient(u, _why_no_gradient(neuron))), ()
    if found is not None:
        return found[0].view(found[0].shape[1:]), found[1]
    with full_precision(request.device):
        return step_eager(neuron.bind(request.step, request.dtype), request)


def prepared_step(
    neuron: Any, x: Tensor, states: States, norm: nn.Module | None, as_spikes: AsSpikes | None
) -> tuple[Tensor, launch.Step] | None:
    """:func:`spikeloom.kernel.launch.step_of`, with a batch norm of torch.nn before the neuron.

    None where no kernel would run, and for a norm without statistics.
    """
    if chosen() == "eager" or not x.numel():
        return None
    joined = Norm.of(norm) if norm is not None and type(norm) in KINDS else None
    if norm is not None and (joined is None or joined.batch or joined.why_not(x.unsqueeze(0))):
        return None
    request = Request.of_step((x,), states, as_spikes)._replace(norm=joined)
    if _why_no_kernel(neuron, request):
        return None
    try:
        target, kernels = target_for(x.device), compiled.kernels_of(neuron, normed=joined is not None)
        return None if isinstance(kernels, str) else launch.step_of(target, kernels, neuron, request)
    except BuildError:
        return None


def gives_spikes(neuron: Any, inputs: int) -> bool:
    """Whether a neuron's outputs are 0 and 1 by what computes them, so that nobody has to look at a device's memory."""
    kernels = compiled.kernels_of(neuron, inputs)
    return not isinstance(kernels, str) and TRITON.packs(kernels.program)


def source(neuron: Any, x: Tensor) -> str:
    """The source of the kernels that run ``neuron`` on ``x`` ``[T, B, *]``: forward, then backward for training.

    It is C for a CPU, Triton for a GPU or inside ``sl.backend("triton")``. Raises BackendError where there is no
    kernel.

    >>> import torch
    >>> import spikeloom as sl
    >>> text = sl.kernel.source(sl.LIF(), torch.rand(5, 2, 3))
    >>> "(x_ - u8)" in text
    True
    """
    request, kernels = Request.of((x,), ()), compiled.kernels_of(neuron)
    reason = _why_no_kernel(neuron, request)
    if reason or isinstance(kernels, str):
        raise BackendError(f"{type(neuron).__name__} has no kernel for this input: {reason or kernels}")
    try:
        return launch.sources(target_for(x.device), kernels, neuron, request)
    except BuildError as error:
        raise BackendError(f"{type(neuron).__name__} has no kernel for this input: {error}") from error


def _why_no_gradient(neuron: Any) -> str:
    return (
        f"{type(neuron).__name__} ran in a kernel, which gives no gradient with regard to the states or u that it "
        'recorded (of what is computed of them it does); run the forward pass in `with sl.backend("eager"):`'
    )


def _by_kernels(neuron: Any, ready: _Ready) -> Found | None:
    """The answer of kernels, or None where they cannot be built; raises BackendError where kernels were asked for."""
    target, kernels, request, said = ready
    try:
        with full_precision(request.device):
            found = launch.run(target, kernels, neuron, request)
    except BuildError as error:
        _loop_instead(neuron, str(error), _not_built(neuron, error))
        return None
    note(neuron, target.name, said)
    if debugging():
        check_call(target, kernels, neuron, request, found)
    return found


def _not_built(neuron: Any, error: BuildError) -> str:
    return f"the kernel of {type(neuron).__name__} could not be built, it runs as a PyTorch loop: {error}"


def _ready(neuron: Any, request: Request) -> _Ready | None:
    """What is to run a request, or None for the loop; raises BackendError where kernels were asked for."""
    asked, first = chosen(), request.tensors[0]
    if asked == "eager" or not first.numel():
        note(neuron, "eager", "chosen" if asked == "eager" else "no values")
        return None
    reason = _why_no_kernel(neuron, request)
    if reason:
        _loop_instead(neuron, reason)
        return None
    try:
        target = target_for(first.device, asked)
    except BuildError as error:
        language = {"cpu": "C", **dict.fromkeys(USUAL, "Triton")}.get(first.device.type, "")
        what = f"{language} kernels are not available, neurons run as PyTorch loops: {error}"
        _loop_instead(neuron, str(error), what if language else "")
        return None
    norm, why, said = request.norm, "", ""
    if norm is not None:
        why = "SPIKELOOM_DEBUG" if debugging() else norm.why_not(first)
        said = f"not fused: {why}" if why else f"fused with {norm.kind}"
    kernels = compiled.kernels_of(neuron, len(request.tensors), normed=norm is not None and not why, u=request.u)
    if isinstance(kernels, str):
        _loop_instead(neuron, kernels, f"{kernels}; it runs as a PyTorch loop")
        return None
    if debugging():  # it is compared with the loop, which makes no bits
        request = request._replace(as_spikes=None)
    if why:
        return _Ready(target, kernels, _normalised(request), said)
    try:
        request = request if request.moments is not None else launch.with_moments(target, request)
        if norm is not None and norm.in_vain is not None and is_watched():
            note(norm.alone, "joined", _called(neuron))
        return _Ready(target, kernels, request, said)
    except BuildError as error:
        _loop_instead(neuron, str(error), _not_built(neuron, error))
        return None


def _why_no_kernel(neuron: Any, request: Request) -> str:
    """The reason these inputs rule out every kernel now, whatever the neuron's equation, or an empty string."""
    tensors = [*request.tensors, *request.states]
    for _, part in neuron.parts():
        tensors += part.own_numbers()
    device, plain = request.device, True
    for t in tensors:
        if t.device != device:
            others = {str(t.device) for t in tensors} - {str(device)}
            return f"the input is on {device}, states or numbers are on {', '.join(sorted(others))}"
        plain = plain and type(t) in _PLAIN
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return "inside torch.compile, export or jit"
    if torch._C._len_torch_dispatch_stack():
        return "inside a torch dispatch mode"
    if transformed():
        return "inside a torch.func transform or forward-mode differentiation"
    if not plain:
        return "a tensor subclass"
    if request.tensors[0].dtype.is_complex:
        return f"inputs of {request.tensors[0].dtype}"
    if len(request.tensors) > 1:
        pairs = zip(request.tensors, request.repeated, strict=True)
        if len({x.shape if repeated else x.shape[1:] for x, repeated in pairs}) > 1:
            return "inputs of different shapes"
    return ""


def _loop_instead(neuron: Any, reason: str, said: str = "") -> None:
    """Notes that the PyTorch loop runs, says ``said`` once; raises BackendError where kernels were asked for."""
    if chosen() != "auto":
        raise BackendError(f"{type(neuron).__name__} cannot run on backend {chosen()!r}: {reason}")
    if said:
        say_once(said)
    note(neuron, "eager", reason)


def _normalised(request: Request) -> Request:
    """The request without its norm, which runs by itself; where it ran already, its running statistics stay."""
    if request.norm is None:
        return request
    norm, x, moments = request.norm, request.tensors[0], request.moments
    y = norm.of_all_steps(x) if moments is None else norm.of_all_steps_again(x, moments)
    return request._replace(tensors=(y,), norm=None, moments=None)


def _called(neuron: Any) -> str:
    """A neuron, and where it is in the network that runs."""
    call = active()
    path = None if call is None else call.paths.get(neuron)
    return type(neuron).__name__ if not path else f"{type(neuron).__name__} at {path!r}"

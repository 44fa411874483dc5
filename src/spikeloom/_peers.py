"""What other frameworks call things, for errors: somebody who ports a script writes their names first.

docs/porting.md has the whole table; here is one line for each name that is typed at a neuron, a surrogate or the
package.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

_SURROGATE = "surrogate= takes an instance, such as sl.surrogate.ATan(2.0)"
_SEQUENCES = "whole sequences [T, B, *] go in, and sl.Network(...).stream() runs step by step"
_STATELESS = "nothing is kept between calls and nothing is reset; net(x, return_state=True) hands the state out"
_RECORD = 'states are recorded by the call: y, result = net(x, record=("1.v",))'
_LEARN = "a number is learned where it is a parameter: beta=nn.Parameter(torch.tensor(0.9))"

ARGUMENTS = {
    "surrogate_function": _SURROGATE, "spike_grad": _SURROGATE, "surrogate_fn": _SURROGATE, "act_fun": _SURROGATE,
    "threshold": "the threshold is v_threshold=", "thresh": "the threshold is v_threshold=",
    "v_th": "the threshold is v_threshold=", "vth": "the threshold is v_threshold=",
    "step_mode": _SEQUENCES, "init_hidden": _STATELESS, "output": _RECORD, "store_v_seq": _RECORD,
    "store_i_seq": _RECORD, "learn_beta": _LEARN, "learn_alpha": _LEARN, "learn_threshold": _LEARN,
    "learnable": _LEARN, "reset_mechanism": 'reset= is "soft" (snnTorch\'s "subtract"), "hard" ("zero") or "none"',
    "hard_reset": 'reset= is "hard" or "soft"', "soft_reset": 'reset= is "soft" or "hard"',
    "init_tau": "the time constant is tau=", "tau_m": "the time constant is tau=",
    "tau_mem": "the time constant is tau=",
    "beta": "the membrane decays by tau= here; sl.Leaky takes beta=, a decay",
    "decay": "the membrane decays by tau=, or in sl.Leaky by beta=",
    "alpha": "a surrogate's sharpness is its scale, sl.surrogate.ATan(2.0); a synapse's decay is alpha= of sl.Synaptic",
    "slope": "a surrogate's sharpness is its scale: sl.surrogate.FastSigmoid(25.0)",
    "v_rest": "the potential towards which the membrane leaks is v_leak=", "v_leaky": "the leak's potential is v_leak=",
    "detach": "gradients through the reset are cut by detach_reset=", "R": "the resistance is r=",
    "C": "the capacitance is c=", "time_step": "the length of a step is dt=", "delta_T": "the sharpness is delta_t=",
    "theta_rh": "the rheobase threshold is v_rh=", "a0": "the factor is a=",
    "inhibition": "one that fires alone is sl.nn.Inhibition(neuron)",
    "graded_spikes_factor": "graded spikes are sl.options.Graded(neuron, factor=...)",
    "state_quant": "quantised states are sl.options.StateQuant(neuron, bits=...)",
    "backend": 'kernels are chosen by with sl.backend("eager"), for a block of code',
    "linear_features": "a recurrent layer is sl.nn.Recurrent(neuron, nn.Linear(F, F))",
    "T": "the number of steps is that of the input: [T, B, *], or net(x, repeat=T)",
}  # fmt: skip
"""Names of arguments that peers have, and what to write here."""

_KINDS = ("leaky", "synaptic", "alpha", "lapicque", "rleaky", "rsynaptic", "slstm", "sconv2dlstm", "hidden")
_STARTS = ("reset", "reset_mem", *(f"{verb}_{kind}" for verb in ("init", "reset") for kind in _KINDS))
_CUT = "gradients are cut where a state is handed on: y, result = net(x, state=sl.detach(result.state), ...)"
_DECLARED = "a neuron declares its states by self.states(v=0.0), and its equation is dynamics(self, x, v)"

ATTRIBUTES = {
    **dict.fromkeys(_STARTS, _STATELESS),
    **dict.fromkeys(("detach", "detach_hidden"), _CUT),
    **dict.fromkeys(("v", "mem", "syn", "spk", "v_seq", "i_seq", "s_seq", "store_v_seq", "records"), _RECORD),
    **dict.fromkeys(("step_mode", "set_step_mode", "multi_step_forward", "single_step_forward"), _SEQUENCES),
    **dict.fromkeys(("register_memory", "set_reset_value", "memories", "named_memories"), _DECLARED),
}  # fmt: skip
"""Methods and attributes that modules of peers have, and what to write here."""

REPEATS = ("T", "num_steps", "time_steps", "timesteps", "steps")
"""Arguments by which models of peers are told for how many steps they run."""

RESETS = {"subtract": "soft", "zero": "hard", "sub": "soft", "to-zero": "hard"}
"""What snnTorch calls the resets."""

NAMES = {
    "IFNode": "sl.IF", "LIFNode": "sl.LIF", "ParametricLIFNode": "sl.PLIF", "QIFNode": "sl.QIF", "EIFNode": "sl.EIF",
    "IzhikevichNode": "sl.Izhikevich", "KLIFNode": "sl.KLIF", "LIAFNode": "sl.LIAF", "ILIFNode": "sl.ILIF",
    "PSN": "sl.nn.PSN", "MaskedPSN": "sl.nn.MaskedPSN", "SlidingPSN": "sl.nn.SlidingPSN", "GatedLIFNode": "sl.nn.GLIF",
    "RLeaky": "sl.nn.Recurrent(sl.Leaky(...), nn.Linear(F, F))", "SLSTM": "sl.nn.SpikingLSTM", "LIFCell": "sl.LIF",
    "RSynaptic": "sl.nn.Recurrent(sl.Synaptic(...), nn.Linear(F, F))", "LIFBoxCell": "sl.LIF", "LICell": "sl.LI",
    "reset_net": "nothing: no module keeps a state", "functional": "sl.loss, sl.metrics and sl.decode",
    "spikegen": "sl.encode", "layer": "torch.nn: plain layers go in unchanged", "activation_based": "sl",
    "neuron": "sl itself: sl.LIF", "monitor": 'sl.taps, or net(x, record=("1.v",))', "visualizing": "sl.plot",
    "spikeplot": "sl.plot", "spikevision": "sl.data", "datasets": "sl.data", "clock_driven": "sl", "utils": "sl.data",
    "SequentialState": "sl.Network", "encoding": "sl.encode",
    "backprop": "a loop of your own with sl.detach(result.state)",
    "MultiStepContainer": "sl.Network", "SeqToANNContainer": "sl.Network",
}  # fmt: skip
"""Names that peers have in their packages, and what they are here."""


def check_arguments(kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError where the constructor of ``kind`` does not take these arguments, and says what it takes."""
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]  # of the class that is constructed
    try:
        signature.bind(None, *args, **kwargs)
        return
    except TypeError as problem:
        taken = [name for name, p in signature.parameters.items() if name != "self" and p.kind not in _STARS]
        unknown = [name for name in kwargs if name not in taken]
        if not unknown and len(args) < len(_positional(signature)):
            raise TypeError(f"{kind.__name__}: {problem}; it takes {', '.join(taken)}") from None
    if unknown:
        told = "; nor ".join(f"{name!r}{_here(name, taken)}" for name in unknown)
        end = "" if told.endswith("?") else "."
        raise TypeError(f"{kind.__name__}: there is no argument {told}{end} It takes {', '.join(taken) or 'none'}")
    given = ", ".join(f"{name}={value!r:.40}" for name, value in zip(taken, args, strict=False))
    raise TypeError(f"{kind.__name__}: its arguments are given by name: {kind.__name__}({given})")


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _positional(signature: inspect.Signature) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in signature.parameters.items() if p.kind in kinds]


def _here(name: str, taken: Iterable[str]) -> str:
    if name in ARGUMENTS:
        return f": {ARGUMENTS[name]}"
    near = difflib.get_close_matches(name, list(taken), n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def of_value(name: str, value: object) -> str:
    """What to do with a value that a peer takes for a number, or nothing."""
    if name == "v_reset" and value is None:
        return '; for a soft reset (SpikingJelly\'s v_reset=None) write reset="soft"'
    return ""


def of_reset(value: object) -> str:
    """What a peer's word for a reset is here, or nothing."""
    return f'; snnTorch\'s "{value}" is reset="{RESETS[value]}"' if isinstance(value, str) and value in RESETS else ""


def of_attribute(name: str) -> str:
    """What to write for an attribute that a module of a peer has, or nothing."""
    return f": {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""


def of_option(name: str) -> str:
    """What to write for an argument that a peer's model is called with, or nothing."""
    if name in REPEATS:
        return ", and a still input runs for T steps by net(x, repeat=T)"
    return ", and a state goes in by net(x, state=result.state)" if name in ("mem", "v", "syn", "states") else ""


def of_name(name: str) -> str:
    """What a peer's name is here, or nothing."""
    return f": it is {NAMES[name]} here; docs/porting.md has all names" if name in NAMES else ""

"""What other frameworks call things, for errors: somebody who ports a script writes their names first.

docs/porting.md has the whole table; here is one line for each name that is typed at a neuron, a surrogate, the package
or one of its modules.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NoReturn, ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
R = TypeVar("R")

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

_RESCALED = "for other values than 1 and 0, take off + (on - off) * spikes"
_AS_THEY_ARE = "targets are given as they are"

OPTIONS = {
    **dict.fromkeys(("num_steps", "steps", "time_steps", "timesteps"), "the number of steps is T="),
    "data": "the input comes first", "spk_out": "the spikes come first", "spk_rec": "the spikes come first",
    "time_var_input": "a sequence [T, B, *] of intensities is coded by sl.encode.poisson(x), without T",
    "linear": 'the code is code="linear", which is the default, "log" or "rc"', "on_target": _RESCALED,
    "off_target": _RESCALED, "firing_pattern": "the pattern is pattern=",
    "interpolate": "membranes between spikes are sl.encode.ramp(spikes, on=..., off=...)",
    "population_code": "populations have num_classes= classes, and sl.metrics.accuracy_population their accuracy",
    "time_var_targets": f"{_AS_THEY_ARE}, [B] or for each step [T, B, C]",
    "target_is_time": f"{_AS_THEY_ARE}, classes [B] or times [B, C]",
    "multi_spike": "only the first spike of a neuron counts",
}  # fmt: skip
"""Arguments of encoders, losses and metrics that peers have, and what to write here."""

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

_FROM_TORCH = "plain layers go into sl.Network unchanged"
_NO_STATE = "nothing: no module keeps a state"
_POISSON = "sl.encode.poisson(x, T, gain=..., offset=...)"
_TD_BATCH_NORM = "sl.nn.td_batch_norm(C, alpha=..., v_threshold=...)"
_FUNCTIONAL = (
    "sl.loss, sl.metrics and sl.decode, and reset_net, set_step_mode and detach_net are nothing: no module keeps a "
    "state, and whole sequences go in"
)

NAMES = {
    # neurons
    "IFNode": "sl.IF", "LIFNode": "sl.LIF", "ParametricLIFNode": "sl.PLIF", "QIFNode": "sl.QIF", "EIFNode": "sl.EIF",
    "IzhikevichNode": "sl.Izhikevich", "KLIFNode": "sl.KLIF", "LIAFNode": "sl.LIAF", "ILIFNode": "sl.ILIF",
    "STBIFNode": "sl.STBIF", "ComplementaryLIFNode": "sl.CLIF", "TernaryIFNode": "sl.TernaryIF",
    "TernaryLIFNode": "sl.TernaryLIF", "RAFNode": "sl.ResonateFire", "GatedLIFNode": "sl.nn.GLIF",
    "MPBNLIFNode": "sl.options.MPBN(sl.LIF(), features)", "BaseNode": "sl.Neuron",
    "HalfThresholdIFNode": 'sl.options.HalfThreshold(sl.IF(reset="soft"))',
    "ActivationAwareIFNode": "sl.ActivationAwareIF", "FewSpikeNode": "sl.FewSpike", "HGNode": "sl.FewSpike",
    "OutlierAwareThresholdNode": "sl.FewSpike", "SLTTLIFNode": "sl.options.SLTT(sl.LIF(...))",
    "OTTTLIFNode": "sl.options.SLTT(sl.LIF(...)) after sl.nn.OTTT(layer)", "DSRIFNode": "sl.nn.DSRIF",
    "DSRLIFNode": "sl.nn.DSRLIF", "NonSpikingLIFNode": "sl.LI(...), and sl.decode.membrane of what it gives",
    "CUBALIFNode": 'sl.Synaptic(alpha=c_decay, beta=v_decay, reset="hard", reset_delay=False, strict=False)',
    "NoisyCUBALIFNode": "sl.options.Noisy(neuron, ...)", "SpikingVanillaRNN": "sl.nn.SpikingRNN",
    "StateLeaky": 'sl.Leaky(beta=..., reset="none")', "LinearLeaky": 'sl.Leaky(beta=..., reset="none")',
    "RLeaky": "sl.nn.Recurrent(sl.Leaky(...), nn.Linear(F, F))", "SLSTM": "sl.nn.SpikingLSTM",
    "RSynaptic": "sl.nn.Recurrent(sl.Synaptic(...), nn.Linear(F, F))",
    "LIFCell": 'sl.Synaptic(alpha=..., beta=..., reset="hard", reset_delay=False)',
    "LICell": 'sl.Synaptic(alpha=..., beta=..., reset="none") with its v recorded',
    "LIFBoxCell": "sl.LIF", "LIBoxCell": "sl.LI",
    # modules
    "functional": _FUNCTIONAL, "spikegen": "sl.encode", "encoding": "sl.encode", "activation_based": "sl",
    "clock_driven": "sl", "layer": "torch.nn: plain layers go in unchanged", "neuron": "sl itself: sl.LIF",
    "monitor": 'sl.taps, or net(x, record=("1.v",))', "visualizing": "sl.plot", "spikeplot": "sl.plot",
    "plot_1d_spikes": "sl.plot.raster(spikes, rates=True)", "plot_2d_heatmap": "sl.plot.heatmap",
    "plot_2d_bar_in_3d": "sl.plot.bars3d", "plot_2d_feature_map": "sl.plot.feature_maps",
    "plot_one_neuron_v_s": "sl.plot.neuron(v, s, v_threshold)", "animator": "sl.plot.animate",
    "play_frame": "sl.plot.animate",
    "spikevision": "sl.data", "datasets": "sl.data", "utils": "sl.data",
    "reset_net": _NO_STATE, "detach_net": "sl.detach(result.state), of the state that a call hands out",
    "set_step_mode": "nothing: whole sequences go in, and net.stream() runs step by step",
    "backprop": "sl.learn.online, or a loop of your own with sl.detach(result.state)",
    **dict.fromkeys(("TBPTT", "BPTT", "RTRL", "rtrl"), "sl.learn.online(net, x, loss, steps=K, method=...)"),
    # encoders and targets
    "rate": f"{_POISSON} of inputs, and sl.decode.rate of outputs", "rate_conv": "sl.encode.poisson(x)",
    "PoissonEncoder": _POISSON, "LatencyEncoder": 'sl.encode.latency(x, T), code="log" or "linear"',
    "latency_code": 'sl.encode.latency_time(x, T, code="rc")', "latency_code_linear": "sl.encode.latency_time(x, T)",
    "latency_code_log": 'sl.encode.latency_time(x, T, code="rc")',
    "WeightedPhaseEncoder": "sl.encode.weighted_phase(x, bits=K)", "PeriodicEncoder": "sl.encode.periodic(spikes, T)",
    "PopSpikeEncoderDeterministic": 'sl.encode.population(x, T, code="deterministic", ...)',
    "PopSpikeEncoderRandom": 'sl.encode.population(x, T, code="random", ...)',
    "PopEncoder": 'sl.encode.population(x, T, code="current", ...)',
    "GaussianTuning": "sl.encode.gaussian_tuning", "DirectEncoder": "net(x, repeat=T), or sl.encode.repeat(x, T)",
    "temporal_repeat": "net(x, repeat=T), or sl.encode.repeat(x, T)",
    "StatefulEncoder": "nothing: encoders are functions", "StatelessEncoder": "nothing: encoders are functions",
    "targets_rate": "sl.encode.target_rate(y, C, T)", "targets_latency": "sl.encode.target_latency(y, C, T)",
    "targets_convert": "sl.encode.target_rate(y, C, T) or sl.encode.target_latency(y, C, T)",
    "target_rate_code": "sl.encode.target_rate(y, 1, T, correct_rate=...)",
    "rate_interpolate": "sl.encode.ramp(spikes, on=..., off=...)",
    "latency_interpolate": "sl.encode.ramp(spikes, on=..., off=...)",
    "to_one_hot": "torch.nn.functional.one_hot(y, C); losses take classes as they are",
    "from_one_hot": "z.argmax(-1)",
    # learning rules
    "learning": "sl.learn", "STDPLearner": "sl.learn.STDP", "stdp_learner": "sl.learn.STDP",
    **dict.fromkeys(("stdp_linear_step", "stdp_conv1d_step", "stdp_conv2d_step"), "sl.learn.STDP().step"),
    "MSTDPLearner": 'sl.learn.Modulated(sl.learn.STDP(decay="exponential"))',
    "MSTDPETLearner": 'sl.learn.Modulated(sl.learn.STDP(decay="exponential"), tau_e=...)',
    "fptt_online_training": "sl.learn.FPTT", "ottt_online_training": "sl.learn.online(net, x, loss, steps=1)",
    # losses and metrics
    "ce_rate_loss": "sl.loss.rate_cross_entropy", "ce_count_loss": "sl.loss.count_cross_entropy",
    "ce_max_membrane_loss": "sl.loss.max_membrane_cross_entropy", "mse_count_loss": "sl.loss.count_mse",
    "mse_membrane_loss": "sl.loss.membrane_mse", "ce_temporal_loss": "sl.loss.first_spike_cross_entropy",
    "mse_temporal_loss": "sl.loss.first_spike_mse", "SpikeTime": "sl.decode.first_spike",
    "first_spike_index": "sl.decode.first_spike", "l1_rate_sparsity": "lam * spikes.sum(), or sl.loss.rate_l1",
    "TET": "sl.loss.tet", "TETLoss": "sl.loss.tet", "spike_similar_loss": "sl.loss.spike_similarity",
    "temporal_efficient_training_cross_entropy": "sl.loss.tet, without its regulariser sl.loss.rate_cross_entropy",
    "kernel_dot_product": "sl.loss.spike_kernel", "accuracy_rate": "sl.metrics.accuracy_rate",
    "accuracy_temporal": "sl.metrics.accuracy_first_spike",
    # surrogates
    "straight_through_estimator": "sl.surrogate.StraightThrough", "SFS": "sl.surrogate.SparseFastSigmoid",
    "StraightThroughEstimator": "sl.surrogate.StraightThrough", "LSO": "sl.surrogate.LeakySpikeOperator",
    "SSO": "sl.surrogate.StochasticSpikeOperator", "custom_surrogate": "sl.surrogate.Custom",
    "CustomSurrogate": "sl.surrogate.Custom", "SurrogateFunctionBase": "sl.surrogate.Surrogate",
    # layers and containers
    "SequentialState": "sl.Network", "MultiStepContainer": "sl.Network", "SeqToANNContainer": "sl.Network",
    "TLastMultiStepContainer": "sl.Network", "TLastSeqToANNContainer": "sl.Network", "StepModeContainer": "sl.Network",
    "LinearRecurrentContainer": "sl.nn.Recurrent(neuron, nn.Linear(F, F))",
    "ElementWiseRecurrentContainer": "sl.nn.Recurrent(neuron, sl.nn.OneToOne(F))", "VotingLayer": "sl.nn.Voting",
    "OTTTSequential": "sl.Network of sl.nn.OTTT(layer) and sl.options.SLTT(neuron)",
    "Dropout2d": "sl.nn.Dropout(p, dims=2), one mask for all steps, or torch.nn.Dropout2d, one for each",
    "SparseSynapse": "sl.nn.SparseLinear", "Tosnn": "the layer itself",
    "GradedSpikes": "sl.options.Graded(neuron, factor=...)", "state_quant": "sl.options.StateQuant(neuron, bits=...)",
    **dict.fromkeys([f"ThresholdDependentBatchNorm{d}d" for d in "123"], _TD_BATCH_NORM),
    **dict.fromkeys([f"TemporalEffectiveBatchNorm{d}d" for d in "123"], "sl.nn.TEBN(C, T)"),
    "TEBN2d": "sl.nn.TEBN(C, T)", "tdBN2d": "torch.nn.BatchNorm2d",
    **dict.fromkeys([f"BatchNormThroughTime{d}d" for d in "123"], "sl.nn.BNTT(C, T)"),
    **dict.fromkeys(["BatchNormTT1d", "BatchNormTT2d"], "sl.nn.BNTT(C, T)"),
    "TemporalWiseAttention": "sl.nn.TemporalAttention", "TemporalAttention": "sl.nn.TemporalAttention",
    "MultiDimensionalAttention": "sl.nn.MultiDimensionalAttention", "TCJA": "sl.nn.TCJA",
    **dict.fromkeys(["InputMonitor", "OutputMonitor", "AttributeMonitor"], "sl.taps(net, ...)"),
    **dict.fromkeys(["GradInputMonitor", "GradOutputMonitor"], "sl.taps(net, ...)"),
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
        told = "; nor ".join(f"{name!r}{_here(name, taken, ARGUMENTS)}" for name in unknown)
        end = "" if told.endswith("?") else "."
        raise TypeError(f"{kind.__name__}: there is no argument {told}{end} It takes {', '.join(taken) or 'none'}")
    given = ", ".join(f"{name}={value!r:.40}" for name, value in zip(taken, args, strict=False))
    raise TypeError(f"{kind.__name__}: its arguments are given by name: {kind.__name__}({given})")


def told(function: Callable[P, R]) -> Callable[P, R]:
    """A function that explains arguments which it does not take; a call that succeeds costs it nothing more."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError:
            _check_call(function, args, kwargs)
            raise

    return call


def _check_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError with what ``function`` takes, if it does not take these arguments."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
        return
    except TypeError as error:
        problem = str(error)
    who = f"{function.__module__.split('.')[1]}.{function.__name__}"
    taken, first = list(signature.parameters), _positional(signature)
    unknown = [name for name in kwargs if name not in taken]
    if unknown:
        described = "; nor ".join(f"{name!r}{_here(name, taken, OPTIONS)}" for name in unknown)
        end = "" if described.endswith("?") else "."
        raise TypeError(f"{who}: there is no argument {described}{end} It takes {', '.join(taken)}") from None
    rest = [name for name in taken if name not in first]
    by_name = f", and {', '.join(rest)} by name" if rest else ""
    raise TypeError(f"{who}: {problem}; it takes {', '.join(first)}{by_name}") from None


_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _positional(signature: inspect.Signature) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in signature.parameters.items() if p.kind in kinds]


def _here(name: str, taken: Iterable[str], table: Mapping[str, str]) -> str:
    if name in table:
        return f": {table[name]}"
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


def of_name(name: str, module: ModuleType | None = None) -> str:
    """What a name is here that ``module``, or the package itself, does not have: a peer's, torch's, or one of ours that
    is elsewhere; or nothing."""
    if name.startswith("_"):
        return ""
    layer = getattr(nn, name, None)
    torchs = isinstance(layer, type) and issubclass(layer, nn.Module)
    ours = "" if torchs and module is not None and module.__name__ == "spikeloom.nn" else _ours(name)
    here = NAMES.get(name) or NAMES.get(name.removeprefix("MultiStep")) or ours
    if not here and torchs:
        here = f"torch.nn.{name}: {_FROM_TORCH}"
    return f": it is {here} here; docs/porting.md has all names" if here else ""


def tell(*modules: ModuleType) -> None:
    """Lets modules of this package say what a name is here that they do not have.

    Their ``__getattr__`` is set from here and not written in them, so that their public names, star imports and what
    type checkers know of them stay as they are.
    """
    for module in modules:
        vars(module)["__getattr__"] = functools.partial(_missing, module)


def _missing(module: ModuleType, name: str) -> NoReturn:
    told = f"module {module.__name__!r} has no attribute {name!r}{of_name(name, module)}"
    raise AttributeError(told, name=name, obj=module)


def _ours(name: str) -> str:
    """The same name, or one that differs in case and underscores alone, in what the package and its modules list."""
    folded = name.replace("_", "").lower()
    for module, prefix in _SHELVES.items():
        for known in getattr(sys.modules.get(module), "__all__", ()):
            if known.lower() == folded:
                return f"{prefix}.{known}"
    return ""


_SHELVES = {
    "spikeloom": "sl",
    **{f"spikeloom.{name}": f"sl.{name}" for name in ("surrogate", "nn", "options", "learn")},
}

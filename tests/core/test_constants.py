"""Constants travel with weights: of every module, through averages, casts and files, and nothing else is let in."""

import functools
import inspect
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import spikeloom as sl
from spikeloom import surrogate

# Constructors with all that they need, and for each other option a value that is not its default.
NN = {
    sl.nn.PSN: (dict(T=4), {}),
    sl.nn.MaskedPSN: (dict(T=4, order=2), dict(order=3, lam=0.5)),
    sl.nn.SlidingPSN: (dict(order=2), {}),
    sl.nn.SpikingRNN: (dict(input_size=2, hidden_size=3), {}),
    sl.nn.SpikingGRU: (dict(input_size=2, hidden_size=3), dict(candidate=surrogate.ATan())),
    sl.nn.SpikingLSTM: (
        dict(input_size=2, hidden_size=3),
        dict(cell="membrane", v_threshold=0.5, reset="soft", strict=True, candidate=surrogate.ATan()),
    ),
    sl.nn.SConv2dLSTM: (
        dict(in_channels=1, out_channels=2, kernel_size=3),
        dict(max_pool=2, avg_pool=(2, 1), v_threshold=0.5, reset="hard", strict=True),
    ),
    sl.nn.GLIF: (dict(T=4), {}),
    sl.nn.DSRIF: ({}, dict(alpha=0.4, least=0.02)),
    sl.nn.DSRLIF: ({}, dict(tau=3.0, dt=0.1, alpha=0.4, least=0.2)),
    sl.nn.AssociativeLeaky: (dict(in_features=2, d_value=2, d_key=2), dict(v_threshold=0.5, strict=True)),
    sl.nn.OTTT: (dict(layer=nn.Linear(2, 2)), dict(tau=3.0)),
    sl.nn.Inhibition: (dict(neuron=sl.IF()), dict(among="all", neuron=sl.IF(v_threshold=2.0))),
    sl.nn.ParallelLIF: (dict(neuron=sl.LIF()), dict(neuron=sl.LIF(tau=3.0))),
    sl.nn.NormNeuron: (dict(bn=nn.BatchNorm1d(2), neuron=sl.LIF()), dict(neuron=sl.LIF(strict=True))),
    sl.nn.Recurrent: (dict(neuron=sl.LIF(), feedback=nn.Linear(2, 2)), dict(neuron=sl.LIF(v_reset=0.1))),
    sl.nn.TEBN: (dict(features=2, T=3), dict(eps=1e-3)),
    sl.nn.BNTT: (dict(features=2, T=3), dict(eps=1e-3)),
    sl.nn.NeuNorm: (dict(features=2, size=3), dict(k=0.5)),
    sl.nn.Dropout: ({}, {}),
    sl.nn.DropConnectLinear: (dict(in_features=2, out_features=3), dict(p=0.2, activation=torch.relu)),
    sl.nn.WSLinear: (dict(in_features=2, out_features=3), dict(eps=1e-3, scale=2.74)),
    sl.nn.WSConv2d: (
        dict(in_channels=2, out_channels=2, kernel_size=3),
        dict(eps=1e-3, scale=2.74, stride=2, padding=1, dilation=2, padding_mode="reflect"),
    ),
    sl.nn.SynapseFilter: ({}, dict(tau=3.0, learnable=True)),
    sl.nn.LearnedDelay: (dict(features=2, max_delay=3), dict(max_delay=4)),
    sl.nn.DelayLinear: (dict(in_features=2, out_features=3, max_delay=3), dict(max_delay=4)),
    sl.nn.DelayConv2d: (
        dict(in_channels=2, out_channels=3, kernel_size=3, max_delay=3),
        dict(max_delay=4, stride=2, padding=1),
    ),
    sl.nn.TemporalAttention: (dict(T=4, reduction=2), dict(T=5)),
    sl.nn.MultiDimensionalAttention: (dict(T=4, C=6, reduction_t=2, reduction_c=2), dict(T=5, C=7, dims="tc")),
    sl.nn.TCJA: (dict(T=4, C=6), dict(T=5, C=7)),
    sl.nn.Delay: (dict(steps=2), dict(steps=(2, 1))),
    sl.nn.SpikingSelfAttention: (dict(dim=4, heads=2), dict(heads=4, scale=0.25, neuron=sl.IF)),
    sl.nn.QKAttention: (dict(dim=4, heads=2), dict(heads=4, over="channel", neuron=sl.IF)),
    sl.nn.SpikeDrivenSelfAttention: (dict(dim=4, heads=2), dict(heads=4, version=2, dvs=True, neuron=sl.IF)),
    sl.nn.Voting: ({}, dict(size=3)),
    sl.options.MPBN: (dict(neuron=sl.LIF(), features=2), dict(eps=1e-3)),
    sl.options.Noisy: (
        dict(neuron=sl.LIF(), input=0.1),
        dict(input=0.2, threshold=0.1, distribution="gumbel", exponent=1.0, always=True),
    ),
    sl.LIAF: ({}, dict(activation=nn.Tanh(), threshold_related=False)),
    sl.SigmaDelta: ({}, dict(activation=torch.relu)),
    sl.FewSpike: (
        dict(tables=sl.FewSpikeTable.relu(3, most=8.0)),
        dict(tables=sl.FewSpikeTable.relu(3, most=4.0), signed=True, clamp=(-1.0, 1.0)),
    ),
    sl.options.Refractory: (dict(neuron=sl.LIF()) | dict(steps=2), dict(steps=3)),
    sl.options.StateQuant: (dict(neuron=sl.LIF()), dict(bits=4, low=-2.0, high=2.0)),
}
CURVES = {
    surrogate.ATan: dict(scale=3.0, spiking=False),
    surrogate.MultiGaussian: dict(scale=3.0, h=0.2, s=5.0, gain=0.6, spiking=False),
    surrogate.SparseFastSigmoid: dict(width=2.0),
    surrogate.SquarewaveFourierSeries: dict(terms=3),
    surrogate.S2NN: dict(beta=2.0),
    surrogate.SpikeRateEscape: dict(slope=20.0),
    surrogate.PiecewiseLeakyReLU: dict(leak=0.1),
    surrogate.StochasticSpikeOperator: dict(mean=0.1),
}
for kind, (_, others) in NN.items():
    if "surrogate" in inspect.signature(kind).parameters:
        others["surrogate"] = surrogate.Dspike()
ONE_OPTION = [(kind, *given, name) for kind, given in NN.items() for name in given[1]]
ONE_OPTION += [(kind, {}, others, name) for kind, others in CURVES.items() for name in others]


def made(kind, given):
    tables = given.get("tables")
    return kind(tables, **{k: v for k, v in given.items() if k != "tables"}) if tables else kind(**given)


@pytest.mark.parametrize(("kind", "given", "others", "name"), ONE_OPTION, ids=lambda x: getattr(x, "__name__", None))
def test_weights_are_refused_by_a_module_that_was_constructed_otherwise(kind, given, others, name):
    saved = nn.Sequential(nn.Identity(), made(kind, given)).state_dict()
    nn.Sequential(nn.Identity(), made(kind, given)).load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"1\.[\w.]+ is .* in the checkpoint but "):
        nn.Sequential(nn.Identity(), made(kind, {**given, name: others[name]})).load_state_dict(saved)


def test_every_module_of_nn_and_every_curve_is_looked_at():
    """What has neither constants nor parts with any is named here, and which options are not compared."""
    without = {sl.nn.SparseLinear, sl.nn.OneToOne, sl.nn.ILC, sl.nn.RepConv}  # shapes and places say all
    kinds = {getattr(sl.nn, name) for name in sl.nn.__all__ if name not in ("td_batch_norm", "DelaySchedule")}
    assert kinds - without == {kind for kind in NN if kind.__name__ in sl.nn.__all__}
    by_shapes = (
        "num_layers",
        "bias",
        "bidirectional",
        "features",
        "query",
        "options",
        "dims",
        "shared",
        "gain",
        "gives",
        "groups",
        *("reduction", "reduction_t", "reduction_c", "kernel", "kernel_t", "kernel_c"),
    )
    of_training = ("dropout", "same_mask", "momentum", "detach_reset")
    of_training += ("per_sample", "same_over_time", "samples", "device", "dtype")
    learned = dict.fromkeys((sl.nn.DSRIF, sl.nn.DSRLIF), ("v_threshold",))
    learned[sl.nn.Dropout] = ("p",)  # of training
    learned[sl.nn.LearnedDelay] = learned[sl.nn.DelayLinear] = learned[sl.nn.DelayConv2d] = ("kernel", "sigma", "taps")
    learned[sl.nn.GLIF] = ("tau", "leak", "v_subreset", "conduct", "v_threshold")
    for kind, (given, others) in NN.items():
        if kind.__name__ in sl.nn.__all__:
            options = set(inspect.signature(kind).parameters) - {*by_shapes, *of_training, *learned.get(kind, ())}
            assert options <= given.keys() | others.keys(), kind
    curves = [getattr(surrogate, name) for name in surrogate.__all__]
    for curve in curves:
        if not isinstance(curve, type) or not issubclass(curve, surrogate.Surrogate) or curve is surrogate.Surrogate:
            continue
        given = (torch.relu,) if curve is surrogate.Custom else ()
        options = [p for p in inspect.signature(curve).parameters if p not in ("derivative", "primitive")]
        known = set(curve(*given).constants())
        assert known >= set(options) - {"scale_derivative"} | {"surrogate"}, curve


def test_the_message_has_path_name_and_both_values():
    with pytest.raises(RuntimeError) as problem:
        sl.Network(sl.nn.MaskedPSN(4, order=3)).load_state_dict(sl.Network(sl.nn.MaskedPSN(4, order=2)).state_dict())
    assert "body.0.order is 2 in the checkpoint but 3 in this MaskedPSN: the weights belong to other" in str(
        problem.value
    )
    with pytest.raises(RuntimeError, match=r"body\.0\.surrogate\.surrogate is ATan in the checkpoint but Erf in this"):
        sl.Network(sl.LIF(surrogate=surrogate.Erf())).load_state_dict(sl.Network(sl.LIF()).state_dict())


def test_functions_are_known_by_name():
    saved = surrogate.Custom(F.softplus).state_dict()
    with pytest.raises(RuntimeError, match="curve is function softplus in the checkpoint but function relu"):
        surrogate.Custom(F.relu).load_state_dict(saved)
    leaky = [sl.LIAF(activation=functools.partial(F.leaky_relu, negative_slope=slope)) for slope in (0.1, 0.2)]
    with pytest.raises(RuntimeError, match=r"activation is .*0\.1.* in the checkpoint but .*0\.2"):
        leaky[1].load_state_dict(leaky[0].state_dict())


def test_rounding_is_no_other_value():
    """A moving average in double precision, or a device that has single precision only, may leave the last digits."""
    channels = torch.tensor([0.1, 0.7])
    saved = sl.LIF(tau=0.1 + 2.0, v_threshold=channels).state_dict()
    sl.LIF(
        tau=torch.tensor(2.1, dtype=torch.float32).item(), v_threshold=channels.nextafter(torch.ones(2))
    ).load_state_dict(saved)
    for other in (dict(tau=2.1001, v_threshold=channels), dict(tau=2.1, v_threshold=channels + 1e-5)):
        with pytest.raises(RuntimeError, match="in the checkpoint but"):
            sl.LIF(**other).load_state_dict(saved)
    never = surrogate.MultiGaussian(h=float("nan"))
    surrogate.MultiGaussian(h=float("nan")).load_state_dict(never.state_dict())
    with pytest.raises(RuntimeError, match=r"h is nan in the checkpoint but 0\.15"):
        surrogate.MultiGaussian().load_state_dict(never.state_dict())


class Delay(sl.TemporalModule):
    not_carried = ("calls",)

    def __init__(self, steps):
        super().__init__()
        self.steps, self.calls, self._seen = steps, 0, 0


class OwnState(Delay):
    def get_extra_state(self):
        return {"anything": self.steps}

    def set_extra_state(self, state):
        self.steps = state["anything"]


def test_modules_of_users():
    saved = Delay(2)
    saved.calls = saved._seen = 7
    other = Delay(2)
    other.load_state_dict(saved.state_dict())
    assert other.calls == 0
    with pytest.raises(RuntimeError, match="steps is 2 in the checkpoint but 3 in this Delay"):
        Delay(3).load_state_dict(saved.state_dict())
    Delay(3).load_state_dict({})  # a checkpoint of before there was a constant
    own = OwnState(1)
    own.load_state_dict(OwnState(5).state_dict())
    assert own.steps == 5


def test_a_transform_inside_a_network():
    with pytest.raises(RuntimeError, match=r"body\.top is 255\.0 in the checkpoint but 15\.0 in this ToFloat"):
        sl.Network(sl.data.transforms.ToFloat(15.0)).load_state_dict(
            sl.Network(sl.data.transforms.ToFloat()).state_dict()
        )


def test_networks_and_their_layouts_have_none():
    net = sl.Network(nn.Linear(2, 2), batch_first=True, spikes="packed")
    assert list(net.state_dict()) == ["body.weight", "body.bias"]
    sl.Network(nn.Linear(2, 2)).load_state_dict(net.state_dict())


def test_what_changes_in_training_is_loaded_and_what_a_schedule_drives_is_left_alone():
    """lam and scale go where the checkpoint's were, if both modules began alike."""
    one, other = sl.nn.MaskedPSN(4, order=2), sl.nn.MaskedPSN(4, order=2)
    one.lam = 0.6
    other.load_state_dict(one.state_dict())
    assert other.lam == 0.6
    sl.nn.MaskedPSN(4, order=2, lam=0.6).load_state_dict(one.state_dict())  # the same now
    with pytest.raises(RuntimeError, match=r"lam is 0\.6 in the checkpoint but 1\.0 in this MaskedPSN"):
        sl.nn.MaskedPSN(4, order=2, lam=1.0).load_state_dict(one.state_dict())
    smooth, fresh = surrogate.Sigmoid(2.0, spiking=False), surrogate.Sigmoid(2.0, spiking=False)
    smooth.scale = 5.0
    fresh.load_state_dict(smooth.state_dict())
    assert fresh.scale.item() == 5.0
    driven = surrogate.Sigmoid(2.0, spiking=False)
    surrogate.LinearSchedule([driven], start=1.0, end=3.0, epochs=4)
    driven.load_state_dict(smooth.state_dict())
    assert driven.scale.item() == 1.0
    refused = sl.nn.MaskedPSN(4, order=3)
    with pytest.raises(RuntimeError):
        refused.load_state_dict(one.state_dict())
    assert refused.lam == 0.0


def test_a_schedule_knows_its_curve():
    target = surrogate.ATan()
    saved = surrogate.LinearSchedule([target], start=1.0, end=3.0, epochs=4).state_dict()
    with pytest.raises(ValueError, match=r"LinearSchedule: end is 3\.0 in the checkpoint but 5\.0 here"):
        surrogate.LinearSchedule([target], start=1.0, end=5.0, epochs=4).load_state_dict(saved)
    surrogate.LinearSchedule([target], start=1.0, end=5.0, epochs=4).load_state_dict({"epoch": 2})  # an older one


# -- averages, casts, files --------------------------------------------------------------------------------------------


def net(**options):
    return sl.Network(nn.Linear(3, 3), nn.BatchNorm1d(3), sl.PLIF(v_threshold=0.7, **options), sl.nn.PSN(5))


def in_bfloat16(*dicts):
    total = {k: torch.zeros_like(v, dtype=torch.bfloat16) for k, v in dicts[0].items()}
    for d in dicts:
        for k, v in d.items():
            total[k] += v.bfloat16()
    return {k: v / len(dicts) for k, v in total.items()}


@pytest.mark.parametrize("n", [2, 3, 7])
def test_averages_of_checkpoints(n):
    dicts = [net().state_dict() for _ in range(n)]
    mean = {k: torch.stack([d[k].double() for d in dicts]).mean(0) for k in dicts[0]}
    for average in (
        {k: sum(d[k] for d in dicts) / n for k in dicts[0]},
        {k: sum(d[k].half() for d in dicts) / n for k in dicts[0]},
        {k: sum(0.1 * (i + 1) / (0.05 * n * (n + 1)) * d[k] for i, d in enumerate(dicts)) for k in dicts[0]},
        {k: dicts[0][k] + 0.3 * (dicts[1][k] - dicts[0][k]) for k in dicts[0]},
        in_bfloat16(*dicts),
    ):
        net().load_state_dict(average)
    loaded = net()
    loaded.load_state_dict(mean)
    assert torch.equal(loaded.body[0].weight, mean["body.0.weight"].float())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.float8_e4m3fn]
)
def test_casts_of_the_constants(dtype):
    state = net().state_dict()
    net().load_state_dict({k: v.to(dtype) if k.endswith("_extra_state") else v for k, v in state.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_moving_average_of_a_thousand_steps_is_exact(dtype):
    start = net().state_dict()
    key = "body.2._extra_state"
    moving = start[key].to(dtype)
    for _ in range(1000):
        moving = 0.999 * moving + (1 - 0.999) * start[key].to(dtype)
    assert torch.equal(moving.float().round(), start[key])
    net().load_state_dict({**start, key: moving})


def test_swa_utils_files_and_assignment(tmp_path):
    trained = net()
    averaged = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    averaged.update_parameters(trained)
    averaged.update_parameters(trained)
    net().load_state_dict(averaged.module.state_dict())
    torch.save(averaged.state_dict(), tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    AveragedModel(net(), use_buffers=True).load_state_dict(loaded)
    other = net()
    other.load_state_dict(trained.half().state_dict(), assign=True)
    assert other.body[0].weight.dtype == torch.float16
    safetensors = pytest.importorskip("safetensors.torch", reason="the extra 'cli' is not installed")
    safetensors.save_file(trained.state_dict(), tmp_path / "a.safetensors")
    net().load_state_dict(safetensors.load_file(tmp_path / "a.safetensors"))


def test_constants_hold_under_other_defaults():
    expected = net().state_dict()["body.2._extra_state"]
    with torch.device("meta"):
        made = net()
        assert torch.equal(made.state_dict()["body.2._extra_state"], expected)
        made.load_state_dict({k: v.to("meta") for k, v in net().state_dict().items()}, assign=True)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(net().state_dict()["body.2._extra_state"], expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("value", [0.1, 0.9, 0.5])  # the mean with 0.9 reads 0.8, were it not for the check sum
def test_averages_of_other_dynamics_are_refused(value):
    a, b = net().state_dict(), net(v_reset=value).state_dict()
    mean = {k: (a[k] + b[k]) / 2 for k in a}
    for mine in (net(), net(v_reset=value)):
        with pytest.raises(RuntimeError, match=r"body\.2\._extra_state: .*v_reset \(here .*average of checkpoints"):
            mine.load_state_dict(mean)


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([1.0, 2.0]),
        torch.full((64,), float("nan")),
        torch.tensor([300.0]),
        torch.tensor([-4]),
        torch.tensor([200, 200], dtype=torch.uint8),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(0),
        "text",
        None,
    ],
)
def test_other_things_are_no_constants(bad):
    with pytest.raises(RuntimeError, match="_extra_state: expected constants stored by spikeloom"):
        sl.IF().load_state_dict({"_extra_state": bad, "surrogate._extra_state": sl.IF().surrogate.get_extra_state()})


def test_checkpoints_of_older_versions():
    """They hold the bytes of JSON, of neurons only."""
    constants = {
        "decay_input": True, "leak_to": "v_reset", "neuron": "LIF", "reset": "hard", "spiking": True, "strict": False,
        "tau": 2.0, "v_reset": 0.0, "v_threshold": 1.0,
    }  # fmt: skip
    stored = torch.tensor(list(json.dumps(constants, sort_keys=True).encode()), dtype=torch.uint8)
    for old in (stored, stored.half(), (stored + stored.float()) / 2):
        sl.LIF().load_state_dict({"_extra_state": old})
        with pytest.raises(RuntimeError, match=r"tau is 2\.0 in the checkpoint but 3\.0 in this LIF"):
            sl.LIF(tau=3.0).load_state_dict({"_extra_state": old})
    with pytest.raises(RuntimeError, match=r"v_leak is absent in the checkpoint but 0\.5"):
        sl.LIF(v_leak=0.5).load_state_dict({"_extra_state": stored})
    constants |= {"neuron": "LIAF", "threshold_related": True}
    old = torch.tensor(list(json.dumps(constants).encode()), dtype=torch.uint8)
    sl.LIAF().load_state_dict({"_extra_state": old})  # which did not know the activation
    weights = {k: v for k, v in sl.nn.PSN(3).state_dict().items() if "_extra_state" not in k}
    sl.nn.PSN(3).load_state_dict(weights)


def test_classes_that_torch_makes_count_as_what_they_were():
    class Sharded(nn.Module):
        pass

    Sharded.__module__ = "torch.distributed.fsdp"
    neuron = sl.LIF()
    state = neuron.state_dict()
    neuron.__class__ = type("FSDPLIF", (Sharded, sl.LIF), {"__module__": "torch.distributed.fsdp"})
    assert torch.equal(neuron.get_extra_state(), state["_extra_state"])
    neuron.load_state_dict(state)


class Counting(sl.TemporalModule):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain
        self.calls = 0
        self.last = None

    def step(self, x_t, state=None):
        self._note(x_t)
        return self.gain * x_t, None

    def _note(self, x_t):
        self.calls += 1
        self.last = str(x_t.dtype)


def test_what_a_module_counts_is_no_constant():
    ran = sl.Network(Counting())
    ran(torch.ones(3, 1, 2))
    assert ran.body[0].calls == 3
    sl.Network(Counting()).load_state_dict(ran.state_dict())
    with pytest.raises(RuntimeError, match=r"gain is 1\.0 in the checkpoint but 2\.0 .* not_carried"):
        sl.Network(Counting(gain=2.0)).load_state_dict(ran.state_dict())


def test_what_a_network_is_given_to_remember_is_no_constant():
    trained = sl.Network(nn.Linear(2, 2), sl.LIF())
    trained.epoch, trained.name = 3, "best"
    sl.Network(nn.Linear(2, 2), sl.LIF()).load_state_dict(trained.state_dict())
    assert "_extra_state" not in trained.state_dict()

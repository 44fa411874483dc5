"""The base: numbers of every kind, states, purity, options, gradients."""

import math
import operator

import pytest
import torch
from torch import nn

import samples
import spikeloom as sl


def smooth():
    return sl.surrogate.Sigmoid(3.0, spiking=False)


def p(*values):
    return nn.Parameter(torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64))


def learned(sample):
    return samples.learnable(samples.smoothed(sample.make()), 3).double()


# Every neuron and option with all numbers learned, of 3 features each; and what samples do not have.
GRADCHECK = {
    **{
        name: lambda sample=sample: learned(sample)
        for name, sample in samples.IN_ONE_STEP.items()
        if sample.smooth and not sample.random and name != "MPBN"  # made for 8 features, see test_options.py
    },
    "IF soft detached": lambda: sl.IF(
        v_threshold=p(0.5, 0.6, 0.7), reset="soft", detach_reset=True, surrogate=smooth()
    ),
    "LIF of one number each": lambda: sl.LIF(tau=p(2.0), v_threshold=p(0.4), v_reset=p(0.1), surrogate=smooth()),
    "learnable scale": lambda: sl.LIF(surrogate=sl.surrogate.ATan(p(2.0, 1.0, 3.0), spiking=False)),
}


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradients_of_input_states_and_all_numbers(name):
    neuron = GRADCHECK[name]()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    rest = neuron.initial_state(x[0])
    start = [torch.randn_like(v, requires_grad=True) for v in rest.values()]
    names = [n for n, _ in neuron.named_parameters()]

    def run(x, *inputs):
        states, params = inputs[: len(start)], dict(zip(names, inputs[len(start) :], strict=True))
        state = dict(zip(rest, states, strict=True))

        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.n = neuron

            def forward(self, x):
                seen = "v" if "v" in rest else next(iter(rest))
                y, final, recorded = self.n.sequence(x, state=state, record=(seen,))
                return (y, recorded[seen], *final.values())

        return torch.func.functional_call(Whole(), {f"n.{k}": v for k, v in params.items()}, (x,))

    # Kernels of the neurons in test_catalogue.py are compared with the loop there.
    if type(neuron) in (sl.IF, sl.LIF, sl.PLIF, sl.Leaky, sl.Synaptic, sl.LI):
        check_gradients(name, run, x, start, neuron)
    else:
        with sl.backend("eager"):
            check_gradients(name, run, x, start, neuron)


def check_gradients(name, run, x, start, neuron):
    # A detached reset has, by design, another gradient than the function: check only where nothing is detached.
    if "detached" in name:
        y = run(x, *start, *neuron.parameters())
        assert all(g.isfinite().all() for g in torch.autograd.grad(y[1].sum(), [x, *start, *neuron.parameters()]))
    else:
        assert torch.autograd.gradcheck(run, (x, *start, *neuron.parameters()))


def test_gradcheck_from_rest_reaches_a_learnable_rest():
    v_reset = p(0.2)
    neuron = sl.LIF(v_reset=v_reset, surrogate=smooth())
    x = torch.randn(3, 2, 1, dtype=torch.float64)

    def run(value):
        return torch.func.functional_call(sl.Network(neuron), {"body.0.v_reset": value}, (x,))

    assert torch.autograd.gradcheck(run, (v_reset,))


SHAPES = [  # number, step, the same number written out for every neuron of the step
    ((), (2, 3), lambda n: n.expand(3)),
    ((3,), (2, 3), lambda n: n),
    ((3,), (2, 3, 4, 5), lambda n: n.view(3, 1, 1).expand(3, 4, 5)),
    ((1,), (2, 3, 4), lambda n: n.expand(3, 4)),
    ((3, 4, 5), (2, 3, 4, 5), lambda n: n),
    ((1, 4), (2, 7, 4), lambda n: n.expand(7, 4)),
    ((3, 1, 1), (2, 3, 4, 5), lambda n: n.expand(3, 4, 5)),
]


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize(("shape", "step", "full"), SHAPES)
def test_a_number_of_every_shape_equals_one_per_neuron(shape, step, full, learnable):
    tau = 1.5 + torch.rand(shape)
    x = torch.randn(5, *step)
    neuron = sl.LIF(tau=nn.Parameter(tau) if learnable else tau, v_threshold=0.3)
    each = sl.LIF(tau=full(tau).reshape(step[1:]).contiguous(), v_threshold=0.3)
    if len(step) == 2 and shape == ():
        each = sl.LIF(tau=full(tau).contiguous(), v_threshold=0.3)
    y, state = neuron.sequence(x)
    z, other = each.sequence(x)
    assert torch.equal(y, z)
    torch.testing.assert_close(state, other)
    assert bool(list(neuron.parameters())) == learnable


@pytest.mark.parametrize(
    ("shape", "step"), [((4,), (2, 3)), ((4,), (2, 3, 4)), ((2, 3), (5, 3, 2)), ((2, 1, 1), (2, 3))]
)
def test_a_number_that_fits_nothing_raises_with_both_shapes(shape, step):
    neuron = sl.LIF(tau=torch.full(shape, 2.0))
    with pytest.raises(
        ValueError, match=rf"LIF.tau: a number of shape \[{shape[0]}.* step of shape \[{step[0]}, {step[1]}"
    ):
        neuron.sequence(torch.zeros(2, *step))


def test_setting_a_number_changes_what_is_computed():
    neuron, x = sl.LIF(tau=2.0), torch.ones(1, 1)
    neuron.tau = 4.0
    assert float(neuron.sequence(x)[1]["v"]) == 0.25
    neuron.tau = torch.tensor([5.0])
    assert float(neuron.sequence(x)[1]["v"]) == pytest.approx(0.2)
    neuron.tau = nn.Parameter(torch.tensor(8.0))
    assert [n for n, _ in neuron.named_parameters()] == ["tau"]
    neuron.tau = 2
    assert not list(neuron.parameters())
    assert float(neuron.sequence(x)[1]["v"]) == 0.5


def test_floats_survive_casts_moves_and_meta():
    with torch.device("meta"):
        neuron = sl.LIF(tau=2.7182818284590452, v_threshold=nn.Parameter(torch.ones(3)))
    neuron = neuron.to_empty(device="cpu").half().float().bfloat16()
    assert neuron.tau.dtype == torch.float64
    assert float(neuron.tau) == 2.7182818284590452
    assert neuron.v_threshold.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sl.LIF(tau=0.5), ValueError, "LIF.tau: expected a number of at least 1, got 0.5"),
        (lambda: sl.LIF(tau=torch.tensor([2.0, 0.0])), ValueError, "LIF.tau"),
        (lambda: sl.LIF(tau=math.nan), ValueError, "LIF.tau"),
        (lambda: sl.LIF(tau="2"), TypeError, "expected a float, a Tensor or an nn.Parameter, got str"),
        (lambda: sl.LIF(tau=True), TypeError, "got bool"),
        (lambda: sl.LIF(tau=torch.tensor([2])), TypeError, "floating-point"),
        (lambda: sl.LIF(tau=torch.ones(2, requires_grad=True) * 2), TypeError, "wrap it in nn.Parameter"),
        (lambda: sl.Leaky(beta=1.1), ValueError, "Leaky.beta: expected a number from 0 to 1, got 1.1"),
        (lambda: sl.PLIF(tau=1.0), ValueError, "above 1"),
        (lambda: sl.PLIF(tau=torch.tensor([3.0, 0.9])), ValueError, "above 1"),
        (lambda: sl.PLIF(tau=torch.tensor([3.0, 2.0]), shape=2), ValueError, "not both"),
        (lambda: sl.LIF(reset="subtract"), ValueError, "one of hard, soft, none; got 'subtract'"),
        (lambda: sl.LIF(reset="soft", v_reset=0.5), ValueError, "v_reset is used by reset='hard' only"),
        (lambda: sl.LIF(surrogate=sl.surrogate.ATan), TypeError, "must be an instance"),
        (lambda: sl.surrogate.ATan(0.0), ValueError, "ATan.scale: expected a positive number, got 0.0"),
    ],
)
def test_bad_options_raise(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_values_at_rest():
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert sl.LIF(v_reset=-0.3).initial_state(x)["v"].tolist() == [[-0.3] * 3] * 2
    assert sl.LIF(v_reset=-0.3, v_leak=0.2).initial_state(x)["v"].tolist() == [[0.2] * 3] * 2
    assert sl.LIF(reset="soft").initial_state(x)["v"].tolist() == [[0.0] * 3] * 2
    assert {k: v.dtype for k, v in sl.Synaptic(alpha=0.5, beta=0.5).initial_state(x).items()} == {
        "i": torch.float64,
        "v": torch.float64,
    }
    changed = sl.LIF()
    changed.v_reset = -1.0
    assert changed.initial_state(x)["v"].tolist() == [[-1.0] * 3] * 2


def test_integer_and_boolean_input_count_as_float32():
    for dtype in (torch.uint8, torch.bool, torch.int64):
        y, state = sl.IF().sequence(torch.ones(2, 3, dtype=dtype))
        assert y.dtype == state["v"].dtype == torch.float32
        assert y.sum() == 6


def test_train_and_eval_have_the_same_gradient():
    x = torch.randn(6, 2, 3)
    grads = []
    for mode in (True, False):
        inputs = x.clone().requires_grad_()
        sl.LIF().train(mode).sequence(inputs)[0].sum().backward()
        grads.append(inputs.grad)
    assert torch.equal(*grads)
    assert grads[0].abs().sum() > 0


class Counts(sl.Neuron):
    """A neuron of a user: two states, an exponential, learnable per feature, a rest that is no zero."""

    def __init__(self, features):
        super().__init__(surrogate=sl.surrogate.Sigmoid(4.0), reset="none")
        self.numbers(tau=3.0, rho=nn.Parameter(torch.linspace(0.7, 0.98, features)))
        self.states(v=0.25, a=nn.Parameter(torch.zeros(features)))

    def dynamics(self, x, v, a):
        v = v + (x * torch.exp(-a) - v) / self.tau
        s = self.fire(v - 0.3 * a - 1.0)
        return s, v - s, a * self.rho + s * (1 - self.rho)


def test_a_users_neuron_equals_its_loop_by_hand():
    neuron, x = Counts(4).double(), torch.randn(7, 2, 4, dtype=torch.float64) * 2 + 1
    y, state, recorded = neuron.sequence(x, record=("a", "v"))
    rho = torch.linspace(0.7, 0.98, 4).double()
    v, a, ys = torch.full((2, 4), 0.25).double(), torch.zeros(2, 4).double(), []
    for x_t in x:
        v = v + (x_t * torch.exp(-a) - v) / 3.0
        s = (v - 0.3 * a >= 1.0).double()
        v, a = v - s, a * rho + s * (1 - rho)
        ys.append(s)
    assert 0.05 < y.mean() < 0.95
    assert torch.equal(y, torch.stack(ys))
    torch.testing.assert_close(state["a"], a)
    torch.testing.assert_close(recorded["v"][-1], v)
    y.sum().backward()
    assert neuron.rho.grad.abs().sum() > 0
    assert neuron.a_rest.grad.abs().sum() > 0


def broken(body, states=("v",)):
    class Broken(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(tau=2.0)
            self.states(**dict.fromkeys(states, 0.0))

        dynamics = body

    return Broken()


def test_dynamics_must_be_pure_and_complete():
    x = torch.ones(2, 1)

    def writes(self, x, v):
        self.seen = 1
        return x, v

    with pytest.raises(AttributeError, match=r"dynamics wrote self.seen, but it must be pure"):
        broken(writes).sequence(x)
    for undeclared in (torch.ones(1), nn.Parameter(torch.ones(1))):
        neuron = broken(lambda self, x, v: (x * self.gain, v))
        neuron.gain = undeclared
        with pytest.raises(AttributeError, match=r"dynamics read self.gain, which is not declared"):
            neuron.sequence(x)
    neuron = broken(lambda self, x, v: (x * self.gain[1], v))
    neuron.gain = (1.0, 2.0)
    assert float(neuron.sequence(x)[0].sum()) == 4.0
    for in_place in (lambda self, x, v: (x, v.add_(x)), lambda self, x, v: (x.mul_(2), v)):
        with pytest.raises(ValueError, match="dynamics changed x or a state in place"):
            broken(in_place).sequence(torch.ones(2, 1))
    with pytest.raises(ValueError, match="returned 1 values, expected 2"):
        broken(lambda self, x, v: x).sequence(x)
    with pytest.raises(ValueError, match=r"returned shape \[\] for a step of shape \[1\]"):
        broken(lambda self, x, v: (x, v.sum())).sequence(x)
    with pytest.raises(NotImplementedError, match="must define dynamics"):
        sl.Neuron().sequence(x)
    with pytest.raises(ValueError, match="rests at 'nothing'"):
        sl.Neuron().states(v="nothing")


def test_numbers_are_tensors_inside_dynamics():
    def check(self, x, v):
        assert isinstance(self.tau, torch.Tensor)
        assert self.tau.dtype == torch.float64
        return x / self.tau, v

    assert broken(check).sequence(torch.ones(1, 1))[0].dtype == torch.float32  # a 0-d float64 promotes nothing


def test_checkpoints_carry_the_constants():
    neuron = sl.LIF(tau=2.5, v_threshold=torch.tensor([1.0, 0.5]), reset="soft")
    state = neuron.state_dict()
    assert list(state) == ["_extra_state", "surrogate._extra_state"]
    sl.LIF(tau=2.5, v_threshold=torch.tensor([1.0, 0.5]), reset="soft", detach_reset=True).load_state_dict(state)
    others = {
        "tau is 2.5 in the checkpoint but 2.0": sl.LIF(v_threshold=torch.tensor([1.0, 0.5]), reset="soft"),
        "v_threshold is": sl.LIF(tau=2.5, v_threshold=torch.tensor([1.0, 0.6]), reset="soft"),
        "reset is soft in the checkpoint but hard": sl.LIF(tau=2.5, v_threshold=torch.tensor([1.0, 0.5])),
        "strict is False in the checkpoint but True": sl.LIF(
            tau=2.5, v_threshold=torch.tensor([1.0, 0.5]), reset="soft", strict=True
        ),
        "neuron is LIF in the checkpoint but IF": sl.IF(),
    }
    for message, other in others.items():
        with pytest.raises(RuntimeError, match=message):
            other.load_state_dict(state)
    for strict in (True, False):
        with pytest.warns(UserWarning, match="say nothing of the constants of neurons"):
            sl.IF().load_state_dict({}, strict=strict)
    with pytest.raises(RuntimeError, match="expected constants stored by spikeloom"):
        sl.IF().load_state_dict({"_extra_state": torch.tensor([1, 2], dtype=torch.uint8)})


def test_loading_with_assign_keeps_numbers_and_their_order():
    trained = sl.LIF(tau=nn.Parameter(torch.tensor(2.0)), v_threshold=nn.Parameter(torch.ones(3)))
    trained.tau.data.fill_(0.9)  # training may leave the range that a constant must be in
    other = sl.LIF(tau=nn.Parameter(torch.tensor(3.0)), v_threshold=nn.Parameter(torch.zeros(3)))
    other.load_state_dict(trained.state_dict(), assign=True)
    assert [n for n, _ in other.named_parameters()] == ["tau", "v_threshold"]
    x = torch.randn(5, 2, 3)
    assert torch.equal(other.sequence(x)[1]["v"], trained.sequence(x)[1]["v"])


def test_large_constants_travel_as_a_digest():
    a, b = torch.rand(40, 40), torch.rand(40, 40)
    state = sl.IF(v_threshold=a).state_dict()
    assert state["_extra_state"].numel() < 40 * 40
    sl.IF(v_threshold=a).load_state_dict(state)
    with pytest.raises(RuntimeError, match="v_threshold"):
        sl.IF(v_threshold=b).load_state_dict(state)


def test_a_schedule_of_the_scale_does_not_block_loading():
    neuron = sl.LIF(surrogate=sl.surrogate.ATan(1.0))
    neuron.surrogate.scale = 5.0
    sl.LIF(surrogate=sl.surrogate.ATan(1.0)).load_state_dict(neuron.state_dict())
    with pytest.raises(RuntimeError, match="spiking is True in the checkpoint but False"):
        sl.LIF(surrogate=sl.surrogate.ATan(spiking=False)).load_state_dict(neuron.state_dict())


def test_repr_says_what_it_is():
    text = repr(sl.LIF(tau=3.0, v_threshold=nn.Parameter(torch.ones(4)), decay_input=False))
    assert text == (
        "LIF(tau=3, v_threshold=learnable [4], v_reset=0, reset='hard', detach_reset=False, strict=False, "
        "decay_input=False, surrogate=ATan(scale=2))"
    )


def test_channels_last_stays_channels_last():
    x = torch.rand(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    y, state = sl.LIF().step(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert state["v"].is_contiguous(memory_format=torch.channels_last)


def test_nan_and_infinity_do_not_spread_to_other_neurons():
    x = torch.tensor([[math.nan, 0.4], [0.4, 0.4]])
    y, state = sl.IF(reset="soft", v_threshold=0.5).sequence(x.unsqueeze(1))
    assert y[:, 0].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert state["v"].isnan().tolist() == [[True, False]]


def test_a_class_is_abstract_or_final():
    """None of the catalogue is the base of another: what they share has a base of its own, without an equation."""
    kinds = [operator.attrgetter(name)(sl) for name in sl.neurons() if not name.startswith("nn.")]
    bases = {base for kind in kinds for base in kind.__mro__[1:]}
    assert not bases & {*kinds}
    abstract = [base for base in bases if issubclass(base, sl.Dynamics)]
    assert {sl.Dynamics, sl.Neuron, sl.options.Option} <= {*abstract}
    assert all(base.dynamics is sl.Dynamics.dynamics for base in abstract)


def test_neurons_fire_and_options_leave_that_to_the_neuron_inside():
    option = sl.options.Graded(sl.options.Refractory(sl.LIF(reset="soft", strict=True), steps=1))
    assert isinstance(option, sl.Dynamics)
    assert not isinstance(option, sl.Neuron)
    assert not hasattr(sl.options.Option, "fire")
    assert option.core() is option.neuron.neuron
    assert option.core().core() is option.core()
    assert option.surrogate is option.core().surrogate
    assert not option.constants().keys() & {"reset", "strict", "detach_reset"}  # which are the inner neuron's
    with pytest.raises(NotImplementedError, match="Dynamics is neither a Neuron nor an Option"):
        sl.Dynamics().core()

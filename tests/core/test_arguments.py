"""What errors say where a call does not fit: an own layer's methods, steps, streams, arrays, a late constructor."""

import pytest
import torch
from torch import nn

import spikeloom as sl

X = torch.rand(3, 2, 4)
STEP = r"expected def step\(self, x_t, state=None\), which returns \(y_t, state\)"
SEQUENCE = r"expected def sequence\(self, x, state=None, lengths=None, record=\(\)\), which returns \(y, state\)"


class ReadsNone(sl.TemporalModule):
    def initial_state(self, x_t):
        return {"v": torch.zeros_like(x_t)}

    def step(self, x_t, state=None):
        return state["v"] + x_t, state


class NoState(sl.TemporalModule):
    def step(self, x_t):
        return x_t, None


class OtherName(sl.TemporalModule):
    def step(self, x_t, mem):
        return x_t, mem


class NoRecord(sl.TemporalModule):
    def sequence(self, x, state=None, lengths=None):
        return x, state


class OfItsOwn(sl.TemporalModule):
    def step(self, x_t, state=None):
        return x_t.nothing, state


RUNS = {
    "network": lambda own: sl.Network(nn.Linear(4, 4), own)(X),
    "stream of a network": lambda own: sl.Network(nn.Linear(4, 4), own).stream()(X[0]),
    "stream": lambda own: sl.Stream(own)(X[0]),
    "sequence": lambda own: own.sequence(X),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize(
    ("own", "says"),
    [
        (ReadsNone, r"was given state=None, which means rest.*" + STEP + ".*self.initial_state"),
        (NoState, "does not take one input and state.*'state'.*" + STEP),
        (OtherName, "does not take one input and state.*'mem'.*" + STEP),
    ],
)
def test_a_step_of_another_signature(run, own, says):
    with pytest.raises(TypeError, match=rf"{own.__name__}.step .*{says}"):
        run(own())


def test_the_place_of_a_sequence_of_another_signature():
    with pytest.raises(TypeError, match=rf"NoRecord.sequence at '1' does not take .*'record'.*{SEQUENCE}"):
        RUNS["network"](NoRecord())


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_an_error_of_its_own_stays(run):
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        run(OfItsOwn())


class Late(sl.Neuron):
    def __init__(self):
        self.numbers(tau=2.0)
        super().__init__()


class LateStates(sl.Neuron):
    def __init__(self):
        self.states(v=0.0)
        super().__init__()


NET = sl.Network(nn.Linear(4, 4), sl.LIF())


def test_an_option_that_adds_inputs_of_its_own_takes_one():
    noisy = sl.options.Noisy(sl.LIF(), input=0.1)
    assert noisy.sequence(X)[0].shape == X.shape
    assert noisy.step(X[0])[0].shape == X[0].shape
    with pytest.raises(TypeError, match="Noisy takes one input, got 2"):
        noisy.step(X[0], X[0])


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: sl.LIF().step(X[0], X[0]), TypeError, r"LIF takes one input, got 2: the state is a keyword"),
        (lambda: sl.LIF().sequence(X, X[0]), TypeError, r"LIF takes one input, got 2: the state is a keyword"),
        (lambda: NET.stream()(X[0], lengths=torch.tensor([1, 2])), TypeError, r"Stream: .* 'lengths': .* one step"),
        (lambda: NET.stream()(X[0], repeat=3), TypeError, r"Stream: .* 'repeat': .* net\(x, repeat=T\)"),
        (lambda: sl.Stream(sl.LIF())(X[0], repeat=3), TypeError, r"Stream: .* 'repeat': .* net\(x, repeat=T\)"),
        (lambda: NET.stream()(X[0], state={}), TypeError, r"set stream.state = state"),
        (lambda: NET.step(X[0], repeat=3), TypeError, r"Network.step: .* 'repeat': it takes state, record"),
        (lambda: NET(X.numpy()), ValueError, r"ndarray: expected \[T, B, \*\]; give torch.from_numpy\(x\)"),
        (lambda: NET.step(X[0].numpy()), ValueError, r"ndarray: expected \[B, \*\]; give torch.from_numpy\(x\)"),
        (lambda: sl.LIF().sequence(X.numpy()), TypeError, r"LIF: expected a tensor, got ndarray; .*from_numpy"),
        (Late, AttributeError, r"Late: .* call super\(\).__init__\(\) first"),
        (LateStates, AttributeError, r"LateStates: .* call super\(\).__init__\(\) first"),
    ],
)
def test_what_the_error_says(call, kind, says, caplog):
    with pytest.raises(kind, match=says):
        call()
    assert not caplog.records

"""Whoever writes a name of another framework's is told ours."""

import pytest
import torch
from torch import nn

import spikeloom as sl

WRONG = [
    (lambda: sl.LIF(surrogate_function=sl.surrogate.ATan()), "surrogate= takes an instance, such as"),
    (lambda: sl.Leaky(beta=0.9, spike_grad=None), "surrogate= takes an instance, such as"),
    (lambda: sl.Leaky(beta=0.9, threshold=1.0), "the threshold is v_threshold="),
    (lambda: sl.LIF(step_mode="m"), r"whole sequences \[T, B, \*\] go in"),
    (lambda: sl.Leaky(beta=0.9, init_hidden=True), "nothing is reset"),
    (lambda: sl.Leaky(beta=0.9, learn_beta=True), r"nn\.Parameter\(torch\.tensor\(0\.9\)\)"),
    (lambda: sl.surrogate.ATan(alpha=2.0), r"a surrogate's sharpness is its scale"),
    (lambda: sl.surrogate.FastSigmoid(slope=25), r"a surrogate's sharpness is its scale"),
    (lambda: sl.PLIF(init_tau=2.0), "the time constant is tau="),
    (lambda: sl.Leaky(0.9), r"given by name: Leaky\(beta=0\.9\)"),
    (lambda: sl.LIF(2.0, 0.5), r"given by name: LIF\(tau=2\.0, v_threshold=0\.5\)"),
    (lambda: sl.LIF(v_treshold=1.0), r"there is no argument 'v_treshold': did you mean 'v_threshold'\?"),
    (lambda: sl.LIF(colour=1), "there is no argument 'colour': it takes tau, v_threshold, "),
    (lambda: sl.LIF(v_reset=None), r'for a soft reset \(SpikingJelly.s v_reset=None\) write reset="soft"'),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message[:24] for _, message in WRONG])
def test_an_argument_of_a_peer_is_told_by_our_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_resets_and_names_of_peers():
    for word, ours in (("subtract", "soft"), ("zero", "hard")):
        with pytest.raises(ValueError, match=f'snnTorch\'s "{word}" is reset="{ours}"'):
            sl.Leaky(beta=0.9, reset=word)
    for name, ours in (
        ("LIFNode", "sl.LIF"),
        ("functional", "sl.loss"),
        ("spikegen", "sl.encode"),
        ("PSN", "sl.nn.PSN"),
    ):
        with pytest.raises(AttributeError, match=f"no attribute '{name}': it is {ours}.* here; docs/porting.md"):
            getattr(sl, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = sl.nonsense


def test_constructors_of_subclasses_are_their_own():
    class Mine(sl.LIF):
        def __init__(self, features, *, threshold=0.5):
            super().__init__(tau=nn.Parameter(torch.full((features,), 2.0)), v_threshold=threshold)

    assert float(Mine(3, threshold=0.25).v_threshold) == 0.25
    with pytest.raises(TypeError, match="Mine: there is no argument 'treshold': did you mean 'threshold'"):
        Mine(3, treshold=1.0)

    class Any(sl.IF):
        def __init__(self, *args, **options):
            super().__init__(**options)

    assert Any(1, 2, v_threshold=2.0).v_threshold == 2.0

"""Lists of names, and papers."""

from pathlib import Path

import torch

import spikeloom as sl

WITHOUT_EQUATION = {
    "TernaryLIF", "SparseFastSigmoid", "PoissonPass", "Custom", "nn.MaskedPSN",  # another one's, with a difference
    "Graded", "HalfThreshold", "Noisy", "Refractory", "SLTT", "StateQuant", "nn.DSRIF", "nn.DSRLIF",  # in words
}  # fmt: skip


def test_every_neuron_and_surrogate_is_listed_with_its_equation():
    in_one = {n for n in sl.neurons() if not n.startswith("nn.")}
    assert in_one == set(sl.neuron.__all__) - {"Neuron", "Option", "FewSpikeTable"}
    over_time = {n.removeprefix("nn.") for n in sl.neurons()} - in_one
    assert over_time == set(sl.nn.__all__) - {"NormNeuron", "OneToOne", "ILC", "Recurrent", "OTTT", "SparseLinear"}
    named = {n for n in sl.surrogate.__all__ if "Schedule" not in n} - {"Surrogate", "EvolvedAlpha"}
    assert set(sl.surrogates()) == named
    for name, line in {**sl.neurons(), **sl.surrogates()}.items():
        assert "=" in line or name in WITHOUT_EQUATION, name


def test_the_readme_counts_them():
    """26 neurons, eight options, 28 surrogates."""
    text = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    kinds = [getattr(sl, n) for n in sl.neurons() if "." not in n]
    options = [kind for kind in kinds if issubclass(kind, sl.Option)]
    counts = f"{len(kinds) - len(options)} neurons and eight options that go around any of them, {len(sl.surrogates())}"
    assert len(options) == 8
    assert f"{counts} surrogates" in text


def test_papers_of_a_network_each_once():
    net = sl.Network(
        torch.nn.Linear(2, 2), sl.PLIF(), sl.LIF(surrogate=sl.surrogate.Rect()), sl.LIF(), sl.nn.MaskedPSN(3, order=1)
    )
    papers = sl.cite(net)
    assert len(papers) == len(set(papers)) == 4
    assert [p.split(",")[0] for p in papers] == ["Fang et al.", "Gerstner", "Wu et al.", "Fang et al."]
    assert sl.cite(torch.nn.Linear(1, 1)) == []
    for name in sl.neurons():
        kind = getattr(sl.nn, name.removeprefix("nn.")) if name.startswith("nn.") else getattr(sl, name)
        assert kind.paper or name == "ActivationAwareIF", name  # whose paper SpikingJelly does not name

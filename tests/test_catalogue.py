"""Lists of names, and papers."""

import torch

import spikeloom as sl


def test_every_neuron_and_surrogate_is_listed_with_its_equation():
    assert set(sl.neurons()) == set(sl.neuron.__all__) - {"Neuron"}
    named = {n for n in sl.surrogate.__all__ if "Schedule" not in n} - {"Surrogate", "EvolvedAlpha"}
    assert set(sl.surrogates()) == named
    for name, line in {**sl.neurons(), **sl.surrogates()}.items():
        assert "=" in line or name in ("TernaryLIF", "SparseFastSigmoid", "PoissonPass", "Custom"), name


def test_papers_of_a_network_each_once():
    net = sl.Network(
        torch.nn.Linear(2, 2), sl.PLIF(), sl.LIF(surrogate=sl.surrogate.Rect()), sl.LIF(), sl.nn.MaskedPSN(3, order=1)
    )
    papers = sl.cite(net)
    assert len(papers) == len(set(papers)) == 4
    assert [p.split(",")[0] for p in papers] == ["Fang et al.", "Gerstner", "Wu et al.", "Fang et al."]
    assert sl.cite(torch.nn.Linear(1, 1)) == []
    for name in sl.neurons():
        assert getattr(sl, name).paper, name

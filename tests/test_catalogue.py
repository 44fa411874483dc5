"""Lists of names, and papers."""

import operator
import re
from pathlib import Path

import torch

import spikeloom as sl

WITHOUT_EQUATION = {
    "TernaryLIF", "SparseFastSigmoid", "PoissonPass", "Custom", "nn.MaskedPSN",  # another one's, with a difference
    "nn.DSRIF", "nn.DSRLIF",  # in words
    *(f"options.{name}" for name in ("Graded", "HalfThreshold", "Noisy", "Refractory", "SLTT", "StateQuant")),
}  # fmt: skip


NO_NEURONS = {
    "NormNeuron", "OneToOne", "ILC", "Recurrent", "OTTT", "SparseLinear", "td_batch_norm", "TEBN", "BNTT", "NeuNorm",
    "Dropout", "DropConnectLinear", "WSConv2d", "WSLinear", "Voting", "SynapseFilter", "Delay", "LearnedDelay",
    "DelayLinear", "DelayConv2d", "DelaySchedule", "TemporalAttention", "MultiDimensionalAttention", "TCJA",
    "SpikingSelfAttention", "QKAttention", "SpikeDrivenSelfAttention", "RepConv",
}  # fmt: skip


def test_every_neuron_and_surrogate_is_listed_with_its_equation():
    listed = {"": set(), "options": set(), "nn": set()}
    for name in sl.neurons():
        listed[name.rpartition(".")[0]].add(name.rpartition(".")[2])
    assert listed[""] == set(sl.neuron.__all__) - {"Dynamics", "Neuron", "FewSpikeTable"}
    assert listed["options"] == set(sl.options.__all__) - {"Option"}
    assert listed["nn"] == set(sl.nn.__all__) - NO_NEURONS
    named = {n for n in sl.surrogate.__all__ if "Schedule" not in n} - {"Surrogate", "EvolvedAlpha"}
    assert set(sl.surrogates()) == named
    for name, line in {**sl.neurons(), **sl.surrogates()}.items():
        assert "=" in line or name in WITHOUT_EQUATION, name


def test_the_readme_counts_them():
    """It promises no more than there are."""
    text = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    promised = re.search(r"(\d+) neurons and eight options that go around any of them, (\d+) surrogates", text)
    assert int(promised[1]) <= len([n for n in sl.neurons() if "." not in n])
    assert len([n for n in sl.neurons() if n.startswith("options.")]) == 8
    assert int(promised[2]) <= len(sl.surrogates())
    for page in (text, (Path(__file__).parents[1] / "docs" / "why.md").read_text()):
        assert int(re.search(r"num_classes=10\)` and (\d+) others", page)[1]) <= len(sl.models.names()) - 1


def test_papers_of_a_network_each_once():
    net = sl.Network(
        torch.nn.Linear(2, 2), sl.PLIF(), sl.LIF(surrogate=sl.surrogate.Rect()), sl.LIF(), sl.nn.MaskedPSN(3, order=1)
    )
    papers = sl.cite(net)
    assert len(papers) == len(set(papers)) == 4
    assert [p.split(",")[0] for p in papers] == ["Fang et al.", "Gerstner", "Wu et al.", "Fang et al."]
    assert sl.cite(torch.nn.Linear(1, 1)) == []
    for name in sl.neurons():
        kind = operator.attrgetter(name)(sl)
        assert kind.paper or name == "ActivationAwareIF", name  # whose paper SpikingJelly does not name

"""sl.replace: every path, shared modules, factories, functional calls listed."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikeloom as sl


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return torch.relu(F.relu(self.relu(self.fc(x)))) + x.relu()


def test_a_shared_module_becomes_one_neuron_with_shared_parameters():
    act = nn.ReLU()
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(1, 1), act), "b": act, "c": nn.ReLU()})
    report = sl.replace(model, nn.ReLU, sl.PLIF)
    assert list(report.replaced) == ["a.1", "b", "c"]
    assert model["a"][1] is model["b"] is not model["c"]
    assert len({id(p) for n, p in model.named_parameters() if n.endswith("w")}) == 2


def test_a_factory_sees_path_and_old_module():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.LeakyReLU(0.3)))
    sl.replace(
        model, (nn.ReLU, nn.LeakyReLU), lambda path, old: sl.IF(v_threshold=2.0 if path == "0" else old.negative_slope)
    )
    assert float(model[0].v_threshold) == 2.0
    assert float(model[1][0].v_threshold) == 0.3
    sl.replace(model, sl.IF, functools.partial(sl.LIF, tau=5.0))
    assert float(model[1][0].tau) == 5.0


def test_training_flag_and_device_are_kept():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).to("meta").eval()
    sl.replace(model, nn.ReLU, sl.PLIF)
    assert not model[1].training
    assert model[1].w.device.type == "meta"


def test_inside_a_network():
    net = sl.Network(nn.Linear(2, 2), nn.ReLU())
    sl.replace(net, nn.ReLU, sl.LIF)
    assert list(net(torch.rand(3, 1, 2), return_state=True)[1].state) == ["1"]


def test_functional_calls_are_found_and_listed():
    model = nn.Sequential(Functional())
    report = sl.replace(model, nn.ReLU, sl.LIF)
    assert list(report.replaced) == ["0.relu"]
    found = sorted(where.rsplit(": ", 1)[1] for where in report.functional)
    assert found == ["F.relu(self.relu(self.fc(x)))", "torch.relu(F.relu(self.relu(self.fc(x))))", "x.relu()"]
    assert all(where.startswith("0 (Functional.forward, line ") for where in report.functional)
    assert "not replaced" in str(report)
    assert not sl.replace(nn.Sequential(Functional()), nn.GELU, sl.LIF).functional


def test_what_cannot_be_done_raises():
    with pytest.raises(ValueError, match="the module itself is a ReLU"):
        sl.replace(nn.ReLU(), nn.ReLU, sl.LIF)
    with pytest.raises(TypeError, match="'0', got int"):
        sl.replace(nn.Sequential(nn.ReLU()), nn.ReLU, lambda path, old: 3)

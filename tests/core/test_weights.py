"""Weights of ordinary models and of networks: with and without ``body.``, and never nothing in silence."""

import pytest
import torch
from torch import nn

import spikeloom as sl


def plain():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def spiking():
    return sl.Network(nn.Linear(4, 6), sl.LIF(), nn.Linear(6, 2))


class Model(nn.Module):
    """A model whose own part is called body, as the network's is."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        self.body, self.act, self.head = nn.Linear(4, 6), act(), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.act(self.body(x)))


def equal(net, model, *pairs):
    return all(torch.equal(net.get_parameter(a), model.get_parameter(b)) for a, b in pairs)


def test_an_ordinary_models_weights_load_with_a_warning():
    model, net = plain(), spiking()
    with pytest.warns(UserWarning, match="say nothing of the constants of neurons .*'_extra_state'"):
        found = net.load_state_dict(model.state_dict())
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert equal(net, model, ("body.0.weight", "0.weight"), ("body.2.bias", "2.bias"))
    net.body.load_state_dict(spiking().body.state_dict())  # with constants: no warning
    with pytest.warns(UserWarning, match="constants of neurons"):
        net.load_state_dict({f"body.{name}": value for name, value in model.state_dict().items()})
    assert equal(net, model, ("body.0.weight", "0.weight"))


def test_a_model_with_a_part_called_body():
    model, net = Model(), sl.Network(Model(sl.LIF))
    for state in (model.state_dict(), {f"body.{name}": value for name, value in model.state_dict().items()}):
        for p in net.parameters():
            nn.init.zeros_(p)
        with pytest.warns(UserWarning, match="constants of neurons"):
            net.load_state_dict(state)
        assert equal(net, model, ("body.body.weight", "body.weight"), ("body.head.bias", "head.bias"))


def test_networks_and_their_bodies_load_each_other_with_constants():
    one, other = spiking(), spiking()
    other.load_state_dict(one.body.state_dict())
    assert torch.equal(other.body[0].weight, one.body[0].weight)
    with pytest.raises(RuntimeError, match=r"tau is 2\.0 in the checkpoint but 3\.0"):
        sl.Network(nn.Linear(4, 6), sl.LIF(tau=3.0), nn.Linear(6, 2)).load_state_dict(one.body.state_dict())
    outer = sl.Network(nn.Flatten(), one)
    again = sl.Network(nn.Flatten(), spiking())
    again.load_state_dict({name.removeprefix("body."): value for name, value in outer.state_dict().items()})
    assert torch.equal(again.body[1].body[0].weight, one.body[0].weight)


def test_nothing_is_not_loaded_in_silence():
    net = spiking()
    other = {f"encoder.{name}": value for name, value in plain().state_dict().items()}
    quiet = {f"body.1.{name}": value for name, value in sl.LIF().state_dict().items()}
    with pytest.raises(RuntimeError, match=r"none of the 4 tensors .* they have encoder\.0\.weight, .* network body\."):
        net.load_state_dict({**other, **quiet}, strict=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({**other, **quiet})
    part = {"0.weight": torch.ones(6, 4), **{name.removeprefix("body."): value for name, value in quiet.items()}}
    found = net.load_state_dict(part, strict=False)
    assert torch.equal(net.body[0].weight, torch.ones(6, 4))
    assert sorted(found.missing_keys) == ["body.0.bias", "body.2.bias", "body.2.weight"]
    with pytest.warns(UserWarning, match="constants of neurons"):
        assert net.load_state_dict({}, strict=False).missing_keys  # asked for explicitly
    assert sl.Network(sl.LIF()).load_state_dict({"body.0._extra_state": sl.LIF().get_extra_state()}, strict=False)


def test_replaced_activations_keep_the_weights_of_the_model():
    model, changed = plain(), plain()
    sl.replace(changed, nn.ReLU, sl.LIF)
    net = sl.Network(changed)
    for p in net.parameters():
        nn.init.zeros_(p)
    with pytest.warns(UserWarning, match="constants of neurons"):
        net.load_state_dict(model.state_dict())
    assert equal(net, model, ("body.0.weight", "0.weight"), ("body.2.weight", "2.weight"))


def test_inside_other_modules_too():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scale = spiking(), nn.Parameter(torch.ones(1))

    one, other = Whole(), Whole()
    state = {name.replace("net.body.", "net."): value for name, value in one.state_dict().items()}
    assert other.load_state_dict(state).missing_keys == []
    assert torch.equal(other.net.body[2].weight, one.net.body[2].weight)

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


def encoder_layer(activation, **options):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoderLayer(8, 2, 16, activation=activation, **options)


def excited(*_):
    return sl.LIF(v_threshold=0.1)


def same_with_and_without_gradient(net, *xs, **options):
    """The states' keys of an evaluation; it computes the same whether torch might take its shortcut or not."""
    net.eval()
    y, result = net(*xs, return_state=True, **options)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            again, more = net(*xs, return_state=True, **options)
        torch.testing.assert_close(again, y, atol=1e-5, rtol=1e-5)
        assert list(more.state) == list(result.state)
    assert y.requires_grad
    return list(result.state)


ACTIVATIONS = {
    "module": (nn.ReLU, lambda: nn.ReLU()),
    "another module": (nn.GELU, lambda: nn.GELU()),
    "function": (nn.ReLU, lambda: F.relu),
    "function of torch": (nn.ReLU, lambda: torch.relu),
    "another function": (nn.GELU, lambda: F.gelu),
    "name": (nn.ReLU, lambda: "relu"),
    "another name": (nn.GELU, lambda: "gelu"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_neurons_in_a_transformer_layer_run_in_evaluation(name):
    what, make = ACTIVATIONS[name]
    layer = encoder_layer(make())
    assert list(sl.replace(layer, what, excited).replaced) == ["activation"]
    assert same_with_and_without_gradient(sl.Network(layer), torch.rand(4, 2, 3, 8)) == ["activation"]


def test_neurons_that_are_put_there_by_hand_or_in_other_places_run_too():
    x = torch.rand(4, 2, 3, 8)
    for place in ("activation", "dropout", "norm1", "norm2", "dropout2"):
        layer = encoder_layer("relu")
        setattr(layer, place, excited())
        assert same_with_and_without_gradient(sl.Network(layer), x) == [place]
    layer = encoder_layer("gelu")
    layer.linear1 = nn.Sequential(layer.linear1, excited())
    assert same_with_and_without_gradient(sl.Network(layer), x) == ["linear1.1"]

    class Own(nn.TransformerEncoderLayer):
        def _ff_block(self, x):
            return self.spike(super()._ff_block(x))

    layer = Own(8, 2, 16, dropout=0.0, batch_first=True)
    layer.spike = excited()
    assert same_with_and_without_gradient(sl.Network(layer), x) == ["spike"]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_neurons_in_a_stack_of_layers_run_where_padding_is_masked(masked, norm_first):
    encoder = nn.TransformerEncoder(encoder_layer(F.relu, norm_first=norm_first), 2)
    report = sl.replace(encoder, nn.ReLU, excited)
    assert list(report.replaced) == ["layers.0.activation", "layers.1.activation"]
    mask = torch.tensor([[False, False, False], [False, False, True]] * 4) if masked else None
    keys = same_with_and_without_gradient(sl.Network(encoder), torch.rand(4, 2, 3, 8), src_key_padding_mask=mask)
    assert keys == ["layers.0.activation", "layers.1.activation"]


def test_a_stack_without_neurons_takes_masks_too():
    encoder = nn.TransformerEncoder(encoder_layer(F.relu), 2).eval()
    x, mask = torch.rand(4, 2, 3, 8), torch.tensor([[False, False, False], [False, False, True]] * 4)
    wanted = encoder(x.flatten(0, 1), src_key_padding_mask=mask).view_as(x)
    net = sl.Network(encoder).eval()
    with torch.no_grad():
        y = net(x, src_key_padding_mask=mask)
    torch.testing.assert_close(y[:, 0], wanted[:, 0])
    torch.testing.assert_close(y[:, 1, :2], wanted[:, 1, :2])


def test_decoders_and_whole_transformers():
    decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    assert list(sl.replace(decoder, nn.ReLU, excited).replaced) == ["activation"]
    x = torch.rand(4, 2, 3, 8)
    assert same_with_and_without_gradient(sl.Network(decoder), x, x) == ["activation"]
    whole = nn.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True)
    paths = ["encoder.layers.0.activation", "decoder.layers.0.activation"]
    assert list(sl.replace(whole, nn.ReLU, excited).replaced) == paths
    assert same_with_and_without_gradient(sl.Network(whole), x, x) == paths


def test_what_replaces_an_activation_computes_outside_of_networks_too():
    layer = encoder_layer("relu").eval()
    sl.replace(layer, nn.ReLU, nn.Tanh)
    x = torch.rand(2, 3, 8)
    with torch.no_grad():
        fast = layer(x)
    torch.testing.assert_close(fast, layer(x))


def test_functions_that_modules_hold_are_replaced_and_the_rest_is_told():
    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.other = F.relu, F.gelu
            self.partial = functools.partial(F.relu, inplace=False)
            self.by_name = "relu"
            self.listed = [nn.ReLU(), nn.ReLU()]
            self.mine = relu
            self.rnn = nn.RNN(2, 2, nonlinearity="relu", batch_first=True)

        def forward(self, x):
            return self.block(self.act(x))

        def block(self, x):
            return F.relu(x)

    def relu(x):
        return x

    model = nn.ModuleDict({"a": Holds()})
    report = sl.replace(model, nn.ReLU, lambda path, old: sl.IF(v_threshold=2.0 if isinstance(old, nn.ReLU) else 9.0))
    assert list(report.replaced) == ["a.act"]
    assert isinstance(model["a"].act, sl.IF)
    assert float(model["a"].act.v_threshold) == 2.0
    assert model["a"].other is F.gelu
    told = "\n".join(report.functional)
    for text in ("Holds.partial", "a (Holds.by_name): 'relu'", "a (Holds.listed): list of modules", "Holds.mine"):
        assert text in told
    assert "a.rnn (RNN.nonlinearity): 'relu'" in told
    assert "Holds.block, line" in told
    assert len(report.functional) == 6


def test_the_projection_that_attention_does_not_call_is_left_and_told():
    model = nn.ModuleDict({"attend": nn.MultiheadAttention(4, 2, batch_first=True), "fc": nn.Linear(4, 4)})
    report = sl.replace(model, nn.Linear, lambda path, old: nn.Sequential(old, sl.LIF()))
    assert list(report.replaced) == ["fc"]
    assert report.functional == ["attend (MultiheadAttention.out_proj): torch reads its weights and does not call it"]


def test_a_module_that_holds_it_and_stands_at_two_paths_is_told_twice():
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.ModuleDict({"a": block, "b": block})
    assert list(sl.replace(model, nn.ReLU, sl.LIF).replaced) == ["a.1", "b.1"]

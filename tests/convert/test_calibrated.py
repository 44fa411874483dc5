"""Calibrated: biases, weights and first voltages of a layer against closed forms and numpy's least squares."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spikeloom.convert import Calibrated, Rate, convert
from spikeloom.convert.calibrating import RIDGES, least_squares
from spikeloom.options import Graded

T, THETA = 5, 0.8713


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_layers():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()


def sent(x, v):
    """What neurons give in T steps of a constant input, by the closed form of rate coding."""
    return torch.floor(T * x / THETA + v).clamp(0, T) * THETA / T


def solved(rows, targets, penalty):
    """numpy's least squares, with rows of their own for the penalty; the last column is the bias."""
    n = rows.shape[1]
    rows = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    extra = np.concatenate([np.eye(n) * penalty**0.5, np.zeros((n, 1))], 1)
    targets = np.concatenate([targets, np.zeros((n, targets.shape[1]))])
    return np.linalg.lstsq(np.concatenate([rows, extra]), targets, rcond=None)[0].T


def chosen(x, e):
    """With the penalty that does best for the half of the samples that it was not made of, or none but for a bias."""

    def of(rows, targets, ridge):
        if np.isinf(ridge):
            return np.concatenate([np.zeros((targets.shape[1], rows.shape[1])), targets.mean(0)[:, None]], 1)
        return solved(rows, targets, ridge * (rows**2).sum(0).mean())

    def loss(ridge, half):
        found = of(x[half::2], e[half::2], ridge)
        return ((x[1 - half :: 2] @ found[:, :-1].T + found[:, -1] - e[1 - half :: 2]) ** 2).sum()

    return of(x, e, min(RIDGES, key=lambda ridge: loss(ridge, 0) + loss(ridge, 1)))


@pytest.mark.parametrize("weights", [False, True])
@torch.no_grad()
def test_one_layer_has_what_numpy_finds_and_then_the_voltages_of_the_closed_form(weights):
    model, x = two_layers(), drawn(60, 6)
    method = Calibrated(Rate(threshold={"1": THETA}, fold_scales=False), T=T, weights=weights)
    result = convert(model, method, calibrate=x.split(20))
    wanted = F.relu(model[0](x))
    e = wanted - sent(model[0](x), 0.5)
    layer = result.network.body[0]
    if weights:
        found = chosen(x.numpy(), e.numpy())
        torch.testing.assert_close(layer.weight - model[0].weight, torch.from_numpy(found[:, :-1]), rtol=0, atol=1e-10)
        torch.testing.assert_close(layer.bias - model[0].bias, torch.from_numpy(found[:, -1]), rtol=0, atol=1e-10)
    else:
        assert torch.equal(layer.weight, model[0].weight)
        torch.testing.assert_close(layer.bias - model[0].bias, e.mean(0), rtol=0, atol=1e-12)
    left = (wanted - sent(layer(x), 0.5)).mean(0)
    v = (0.5 + T * left / THETA).clamp(0, 1)
    assert (v != 0.5).any()
    torch.testing.assert_close(result(x, T=T), model[2](sent(layer(x), v)), rtol=0, atol=1e-12)


def test_least_squares_of_a_convolution_are_those_of_its_taps():
    """A row for each place: what each tap of the kernel sees there, by a convolution with that tap alone."""
    layer = nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2)).double()
    h = drawn(7, 2, 5, 9)
    taps = torch.eye(12, dtype=torch.float64).view(12, 2, 3, 2)
    rows = F.conv2d(h, taps, stride=(1, 2), padding=(1, 0), dilation=(1, 2)).movedim(1, -1).flatten(0, 2)
    e = drawn(*layer(h).shape, seed=1)
    weight, bias = least_squares(layer, [(h[:3], e[:3]), (h[3:], e[3:])], (0.25,))
    found = solved(rows.numpy(), e.movedim(1, -1).flatten(0, 2).numpy(), 0.25 * float((rows**2).sum(0).mean()))
    torch.testing.assert_close(weight.flatten(1), torch.from_numpy(found[:, :-1]), rtol=0, atol=1e-10)
    torch.testing.assert_close(bias, torch.from_numpy(found[:, -1]), rtol=0, atol=1e-10)
    weight, bias = least_squares(
        layer, [(h, F.conv2d(h, layer.weight * 2, layer.bias, (1, 2), (1, 0), (1, 2)))], (0.0,)
    )
    torch.testing.assert_close((weight, bias), (layer.weight.detach() * 2, layer.bias.detach()), rtol=0, atol=1e-9)


def test_weights_stay_where_there_are_too_few_samples_to_know_them():
    """Noise that no input explains, with more inputs than samples: without the choice, it would be fitted exactly."""
    layer, h, e = nn.Linear(40, 2).double(), drawn(30, 40), drawn(30, 2, seed=1)
    weight, bias = least_squares(layer, [(h[:11], e[:11]), (h[11:], e[11:])])
    assert not weight.any()
    torch.testing.assert_close(bias, e.mean(0), rtol=0, atol=1e-12)
    weight, bias = least_squares(layer, [(h[:1], e[:1])])
    assert not weight.any()
    torch.testing.assert_close(bias, e[0], rtol=0, atol=1e-12)
    h = drawn(100, 40)
    weight, _ = least_squares(layer, [(h, h[:, :2])])
    least = solved(h.numpy(), h[:, :2].numpy(), min(RIDGES) * float((h**2).sum(0).mean()))
    torch.testing.assert_close(weight, torch.from_numpy(least[:, :-1]), rtol=0, atol=1e-10)


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        y = F.relu(self.fc1(x))
        return self.fc3(F.relu(self.fc2(y) + y))


@pytest.mark.parametrize("weights", [False, True])
@torch.no_grad()
def test_a_layer_in_a_sum_makes_up_for_the_error_of_the_sum(weights):
    torch.manual_seed(0)
    model, x = Skip().double(), drawn(80, 6)
    rate = Rate(quantile=1.0, fold_scales=False)
    method = Calibrated(rate, T=8, weights=weights, voltages=False, rounds=2)
    result, plain = convert(model, method, example=x), convert(model, rate, example=x)
    assert "no bias" not in str(result.report)
    assert not torch.equal(result.network.state_dict()["body.fc2.bias"], model.fc2.bias)
    wanted = F.relu(model.fc2(y := F.relu(model.fc1(x))) + y)
    errors = [(r.sent([x], 8, ("relu_1",))["relu_1"].mean(0) - wanted).mean(0).abs().max() for r in (plain, result)]
    assert errors[1] < 0.5 * errors[0]
    total = [float((r(x, T=8) - model(x)).square().mean()) for r in (plain, result)]
    assert total[1] < total[0]


def test_weights_that_least_squares_do_not_know_are_named():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    report = convert(model, Calibrated(weights=True, T=4), example=torch.rand(5, 4, 5, 5)).report
    assert "weights of '0' stay: least squares are for nn.Linear and plain nn.Conv2d" in str(report)


class _Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x)
        return self.last(F.relu(h + h))


def test_a_layer_that_is_added_to_itself_keeps_its_bias():
    """It would move what comes of it twice as far."""
    torch.manual_seed(3)
    model, x = _Doubled().double(), drawn(60, 6)
    for weights in (False, True):
        result = convert(model, Calibrated(T=T, weights=weights, voltages=False), calibrate=[x])
        assert torch.equal(result.network.body.first.bias, model.first.bias)
        assert torch.equal(result.network.body.first.weight, model.first.weight)
        assert any("no bias before" in note for note in result.report.notes)


def test_thresholds_are_those_that_lose_least_in_its_steps_unless_there_is_a_base():
    model, x = two_layers(), drawn(60, 6)
    mse, quantile = Rate(threshold="mse", T=T), Rate(quantile=0.9)
    for method, rate in ((Calibrated(T=T), mse), (Calibrated(quantile, T=T), quantile)):
        found, wanted = (convert(model, m, calibrate=[x]).report.layers[0].threshold for m in (method, rate))
        assert torch.equal(found, wanted)


class Deep(nn.Module):
    """Skips of both kinds, a pool, and a sum that is used beyond the next activation."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.skip = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.conv3, self.conv4 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.fc1, self.fc2 = nn.Linear(24, 8), nn.Linear(8, 3)
        self.act, self.pool = nn.ModuleList(nn.ReLU() for _ in range(5)), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.act[0](self.conv1(x))
        y = self.act[1](self.skip(x) + self.conv2(x))
        y = self.conv3(y) + y
        y = self.pool(self.act[3](self.conv4(y + self.act[2](y))))
        return self.fc2(self.act[4](self.fc1(y.flatten(1))))


LAYERS = {"act.0": "conv1", "act.1": "skip", "act.2": "", "act.3": "conv4", "act.4": "fc1"}


@pytest.mark.parametrize("rate", [Rate(fold_scales=False), Rate(pool="difference"), Rate(delay=2)], ids=["a", "b", "c"])
@torch.no_grad()
def test_layers_that_are_computed_one_by_one_have_what_the_whole_network_gives(rate):
    """Two rounds by hand, in which the whole network runs again for each mean error."""
    torch.manual_seed(2)
    model, batches = Deep().double(), drawn(24, 2, 6, 6).split(9)
    found = convert(model, Calibrated(rate, T=T, rounds=2, weights=False), calibrate=batches)
    hand = convert(model, rate, calibrate=batches, T=T)
    theta = {layer.path: layer.threshold for layer in hand.report.layers}
    wanted = {}
    for path in LAYERS:
        model.get_submodule(path).register_forward_hook(
            lambda _, __, y, path=path: wanted.update({path: by_channel(y)})
        )
    model(torch.cat(batches))

    def lacks(path, neuron):
        sent = torch.cat([hand.sent([x], T, (path,))[path][rate.delay :].mean(0) for x in batches])
        return wanted[path] - by_channel(sent) * (1.0 if isinstance(neuron, Graded) else theta[path])

    for path, layer in 2 * list(LAYERS.items()):
        neuron = hand.network.body.get_submodule(path)
        if layer:
            hand.network.body.get_submodule(layer).bias += lacks(path, neuron)
        half = neuron.neuron if isinstance(neuron, Graded) else neuron
        fraction = half.fraction + (T - rate.delay) * lacks(path, neuron) / theta[path]
        half.fraction = fraction.clamp(0, 1)
    for name, value in hand.network.state_dict().items():
        torch.testing.assert_close(found.network.state_dict()[name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(found(batches[0], T=T), hand(batches[0], T=T), rtol=0, atol=1e-9)


def by_channel(y):
    """The mean of each channel."""
    return y.movedim(1, 0).flatten(1).mean(1)

"""sl.convert where channels are not in dimension 1, weights have two users, and arguments are no plain values."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from spikeloom import IF
from spikeloom.convert import QCFS, Calibrated, ConversionError, Delta, Exact, Rate, Total, convert, inspect

RATE = Rate(quantile=1.0)


class Written(nn.Module):
    """A forward that is a function of the module and its inputs."""

    def __init__(self, forward, **modules):
        super().__init__()
        self._written = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args):
        return self._written(self, *args)


def off(result, model, *args, T):
    with torch.no_grad():
        wanted = model(*args)
        return float((result(*args, T=T) - wanted).norm() / wanted.norm())


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


BEHIND = {
    "flattened": (6, lambda: [nn.Flatten(), nn.Linear(30, 3)]),
    "flattened, as many tokens as features": (5, lambda: [nn.Flatten(), nn.Linear(25, 3)]),
    "convolved over features": (5, lambda: [nn.Conv1d(5, 3, 2), nn.Flatten()]),
    "pooled over features": (6, lambda: [nn.MaxPool1d(2), nn.Flatten(), nn.Linear(15, 3)]),
    "averaged over features": (6, lambda: [nn.AvgPool1d(2), nn.Flatten(), nn.Linear(15, 3)]),
    "token by token": (6, lambda: [nn.Linear(6, 3)]),
}


@pytest.mark.parametrize("name", BEHIND)
def test_thresholds_of_tokens_move_into_the_weights_that_see_them(name):
    torch.manual_seed(0)
    features, behind = BEHIND[name]
    model = nn.Sequential(nn.Linear(4, features), nn.ReLU(), *behind()).double()
    x = drawn(8, 5, 4)
    result = convert(model, RATE, example=x)
    assert off(result, model, x, T=256) < 0.01
    folds = name in ("flattened", "flattened, as many tokens as features", "token by token")
    assert result.report.layers[0].alphabet == ("binary" if folds else "graded")
    separate = convert(model, Rate(quantile=1.0, fold_scales=False), example=x)
    if "pooled" not in name:
        torch.testing.assert_close(result(x, T=16), separate(x, T=16), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [RATE, Delta(levels=24)], ids=["mean", "sum"])
def test_weights_that_a_function_uses_too_stay(method):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 3)
    tied = Written(lambda s, x: F.linear(F.relu(s.norm(s.a(x))), s.a.weight.t()), a=nn.Linear(6, 4), norm=norm)
    tied = tied.double().eval()
    x = drawn(16, 6)
    result = convert(tied, method, example=x)
    assert off(result, tied, x, T=256 if method is RATE else 8) < 0.01
    assert result.report.folded == ()
    assert "has the weights" in result.report.not_folded["norm"]
    scaled = Written(lambda s, x: F.linear(s.b(F.relu(s.a(x))), s.b.weight), a=nn.Linear(6, 4), b=nn.Linear(4, 4))
    scaled = scaled.double().eval()
    assert off(convert(scaled, method, example=x), scaled, x, T=256 if method is RATE else 8) < 0.01


def test_a_given_threshold_ends_where_the_activation_does():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3)).double(), 20 * drawn(16, 6)
    result = convert(model, Rate(threshold={"1": 30.0}), example=x)
    assert result.report.layers[0].threshold == 6.0
    assert off(result, model, x, T=256) < 0.01


def test_arguments_that_are_no_tensors_are_fixed():
    torch.manual_seed(0)
    model = Written(lambda s, x, k: s.b(F.relu(s.a(x) * k)), a=nn.Linear(6, 4), b=nn.Linear(4, 3)).double()
    x = drawn(16, 6)
    result = convert(model, Delta(levels=24), example=(x, 2.0))
    assert off(result, model, x, 2.0, T=8) < 0.01
    with pytest.raises(ValueError, match=r"converted with the argument 2\.0, got 3\.0"):
        result(x, 3.0, T=8)


def test_outputs_that_are_no_tensors_stay():
    torch.manual_seed(0)
    model = Written(lambda s, x: (s.b(F.relu(s.a(x))), None, 3), a=nn.Linear(6, 4), b=nn.Linear(4, 3)).double()
    x = drawn(16, 6)
    y, none, three = convert(model, Delta(levels=24), example=x)(x, T=8)
    assert none is None
    assert three == 3
    torch.testing.assert_close(y, model(x)[0], rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("method", [RATE, Delta(levels=24)], ids=["mean", "sum"])
def test_masks_are_no_numbers(method):
    torch.manual_seed(0)

    def attend(s, x, mask):
        return s.head(F.scaled_dot_product_attention(*s.qkv(x).chunk(3, -1), attn_mask=mask).mean(1))

    model = Written(attend, qkv=nn.Linear(4, 24), head=nn.Linear(8, 3)).double()
    x, mask = drawn(8, 5, 4), (drawn(8, 5, 5, seed=1) > 0) | torch.eye(5).bool()
    result = convert(model, method, example=(x, mask))
    assert off(result, model, x, mask, T=4) < 1e-12
    steps = torch.tensor([[True, False], [False, False], [True, True]])
    for coding, wanted in (("mean", steps), ("sum", torch.tensor([[True, False], [True, False], [True, True]]))):
        total = Total(coding=coding)
        assert torch.equal(total.sequence(steps)[0], wanted)
        first, state = total.step(steps[0])
        assert torch.equal(first, wanted[0])
        assert torch.equal(total.sequence(steps[1:], state=state)[0], wanted[1:])


def test_changes_of_masks_are_refused():
    model = Written(lambda s, x: torch.where(s.a(x) > 0, 1.0, 0.0), a=nn.Linear(6, 4)).double()
    with pytest.raises(TypeError, match=r"changes of torch\.bool values cannot be sent"):
        convert(model, Delta(), example=drawn(16, 6), on_unknown="keep")


def test_a_pool_that_takes_channels_for_rows_is_computed_by_difference():
    torch.manual_seed(0)
    model = Written(lambda s, x: s.b(F.max_pool2d(F.relu(s.a(x)), 2).flatten(1)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    x = drawn(8, 5, 4)
    result = convert(model.double(), RATE, example=x)
    assert off(result, model, x, T=256) < 0.01
    assert [e.fate for e in inspect(model, x, method=RATE).entries if e.was == "maxpool"] == ["difference"]


def test_numbers_that_are_options_of_a_sum_are_no_operands():
    torch.manual_seed(0)
    x = drawn(16, 6)
    for function in (lambda h: torch.add(h, 1, alpha=1), lambda h: torch.sub(h, 2, alpha=2), F.logsigmoid):
        model = Written(lambda s, x, f=function: s.b(F.relu(f(s.a(x)) + 1)), a=nn.Linear(6, 4), b=nn.Linear(4, 3))
        assert off(convert(model.double(), Delta(levels=24), example=x), model, x, T=8) < 0.01


def test_data_that_are_not_there_are_said_to_be_missing():
    model, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double(), drawn(16, 6)
    with pytest.raises(ConversionError, match="no batches"):
        convert(model, RATE, example=x, calibrate=iter([]))
    with pytest.raises(ConversionError, match=r"got a Tensor with \[0, 6\]"):
        convert(model, RATE, example=x, calibrate=[x[:0]])


ROUNDS = {
    "div": lambda h: torch.div(h, 0.25, rounding_mode="floor"),
    "to": lambda h: (4 * h).to(torch.int32).to(torch.float64),
}


@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("method", [RATE, Delta(levels=24)], ids=["mean", "sum"])
def test_what_rounds_is_not_linear(name, method):
    torch.manual_seed(0)
    model = Written(lambda s, x: s.b(ROUNDS[name](F.relu(s.a(x)))), a=nn.Linear(6, 4), b=nn.Linear(4, 3)).double()
    with pytest.raises(ConversionError, match=f"there is no rule for {name} that rounds"):
        convert(model, method, example=drawn(16, 6))
    if name == "div":  # on what the neurons have sent so far, of which few values lie near a step
        x = drawn(16, 6)
        result = convert(model, method, example=x, on_unknown="keep")
        wrong = (result(x, T=256 if method is RATE else 12) - model(x)).abs().amax(1) > 1e-6
        assert wrong.sum() <= 3


def test_steps_within_the_delay_are_refused():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double(), drawn(16, 6)
    result = convert(model, Rate(quantile=1.0, delay=40), example=x)
    assert result.report.T == 80
    assert result.report.output < 0.1
    with pytest.raises(ValueError, match="T must be more than the delay, 40, got 8"):
        result.curve(x, torch.zeros(16), steps=(8, 64))
    with pytest.raises(ValueError, match="T must be more than the delay, 40, got 32"):
        convert(model, Rate(delay=40), example=x, T=32)
    with pytest.raises(ValueError, match="more than the delay of its base, 16, got 16"):
        Calibrated(Rate(delay=16), T=16)


def test_a_curve_of_networks_that_wait_is_that_of_single_runs():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double(), drawn(64, 6)
    labels = model(x).argmax(1)
    result = convert(model, Exact(mode="two_phase", quantile=1.0), example=x)
    steps = (1, 2, 3, 5, 8)
    wanted = {T: (result(x, T=T).argmax(1) == labels).double().mean().item() for T in steps}
    assert result.curve(x, labels, steps=steps, batch_size=20) == pytest.approx(wanted)
    found = result.after(x, steps=(8, 2))
    assert list(found) == [2, 8]
    assert all(torch.equal(y, result(x, T=T)) for T, y in found.items())


@torch.no_grad()
def test_volumes_are_converted():
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 4, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(4, 3, 2), nn.ReLU(), nn.Flatten()]
    model, x = nn.Sequential(*layers, nn.Linear(3, 2)), torch.rand(5, 2, 6, 6, 6)
    for method in (Rate(quantile=1.0), Rate(quantile=1.0, unit=True)):
        result = convert(model, method, example=x)
        assert float((result(x, T=512) - model(x)).norm() / model(x).norm()) < 0.02


class _Rows(nn.Module):
    """A view that joins channels and rows, as convolutions that give channels first allow."""

    def __init__(self, named):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(7, 3)
        self.named = named

    def forward(self, x):
        y = F.relu(self.conv(x))
        shape = (y.shape[0], -1, y.shape[3])
        return self.linear(y.view(size=shape) if self.named else y.view(*shape)).mean(1)


@torch.no_grad()
def test_views_of_images_are_of_their_values_whatever_lies_last_in_memory():
    torch.manual_seed(0)
    x = torch.rand(3, 2, 6, 7)
    for method, T, named in ((Rate(quantile=1.0), 512, False), (Delta(levels=16), 16, True)):
        model = _Rows(named)
        result = convert(model, method, example=x)
        assert float((result(x, T=T) - model(x)).norm() / model(x).norm()) < 0.01


def test_channels_of_a_pooled_convolution_are_its_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.AvgPool1d(2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    model, x = model.append(nn.Linear(4, 3)).double(), drawn(8, 2, 12)
    result = convert(model, RATE, example=x)
    assert result.report.layers[0].threshold.shape == (4,)
    longer = drawn(8, 2, 16, seed=1) / 2
    assert off(result, model, longer, T=512) < 0.02


CONSTANTS = {
    "to": lambda s, h: h + torch.arange(4).to(h),
    "factor": lambda s, h: h * torch.linspace(0.5, 2, 4).to(h),
    "type_as": lambda s, h: h - s.p.type_as(h),
    "expand_as": lambda s, h: h + s.p.expand_as(h),
    "reshape_as": lambda s, h: h + s.p.expand(h.shape[0], 1, 4).reshape_as(h),
    "tensors=": lambda s, h: torch.cat(tensors=[h[:, :2], s.p[:2].expand(h.shape[0], -1)], dim=1),
    "other=": lambda s, h: torch.sub(input=h, other=s.p, alpha=0.5),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_in_the_likeness_of_a_signal_are_added_once(name):
    torch.manual_seed(0)
    model = Written(lambda s, x: s.b(CONSTANTS[name](s, F.relu(s.a(x)))), a=nn.Linear(6, 4), b=nn.Linear(4, 3))
    model.p = nn.Parameter(torch.randn(4))
    model, x = model.double(), drawn(16, 6)
    for method, T in ((Delta(levels=24), 12), (RATE, 256)):
        assert off(convert(model, method, example=x), model, x, T=T) < 0.01


def test_a_norm_by_the_batch_is_not_linear():
    torch.manual_seed(0)
    model = Written(lambda s, x: s.b(F.batch_norm(F.relu(s.a(x)), None, None, training=True)), a=nn.Linear(6, 4))
    model.b = nn.Linear(4, 3)
    model, x = model.double(), drawn(16, 6)
    for method, T in ((Delta(levels=24), 12), (RATE, 512)):
        assert off(convert(model, method, example=x), model, x, T=T) < 0.01


def test_pools_of_neighbours_with_about_one_rate_are_those_of_the_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(64, 3)).double()
    x = 1 + drawn(8, 1, 8, 8) / 10
    result = convert(model, RATE, example=x, spikes="packed")
    assert [e.fate for e in result.report.others if e.was == "maxpool"] == ["converted"]
    assert off(result, model, x, T=256) < 0.01


def test_pads_of_channels_and_stacks_of_parts():
    torch.manual_seed(0)
    a, b, x = nn.Conv2d(2, 4, 3), nn.Linear(64, 3), drawn(8, 2, 6, 6)
    for f in (lambda h: F.pad(h, (0, 0, 0, 0, 1, -1)), lambda h: torch.stack(h.unbind(1)[::-1], 1)):
        model = Written(lambda s, x, f=f: s.b(f(F.relu(s.a(x))).flatten(1)), a=a, b=b).double()
        for method, T in ((Delta(levels=24), 12), (RATE, 256)):
            assert off(convert(model, method, example=x), model, x, T=T) < 0.01


def test_a_scale_that_was_trained_to_below_0_is_no_threshold():
    model = nn.Sequential(nn.Linear(6, 4), QCFS(8, scale=1.0), nn.Linear(4, 3))
    nn.init.constant_(model[1].scale, -0.5)
    with pytest.raises(ConversionError, match=r"qcfs at '1'.* has learned the scale -0\.5, which is no threshold"):
        convert(model, Rate(), example=torch.rand(8, 6))


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
@torch.no_grad()
def test_parametrised_weights_have_their_values_and_the_model_keeps_its_parametrisation(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(nn.Linear(5, 7)), nn.ReLU(), nn.Linear(7, 3)).double().eval()
    x, theta = drawn(20, 5), 0.8713
    first = model[0].weight.clone()
    result = convert(model, Rate(threshold={"1": theta}, fold_scales=False), example=x)
    assert set(result.network.state_dict()) >= {"body.0.weight", "body.0.bias", "body.2.weight"}
    assert torch.equal(result.network.body[0].weight, first)
    hidden = torch.floor(8 * (x @ first.T + model[0].bias) / theta + 0.5).clamp(0, 8) * theta / 8
    torch.testing.assert_close(result(x, T=8), model[2](hidden), rtol=0, atol=1e-12)
    assert type(model[0]).__name__ == "ParametrizedLinear"  # and it works on
    torch.testing.assert_close(model[0](x), x @ first.T + model[0].bias)


def test_recurrent_layers_and_weights_by_hooks_are_refused_with_what_to_do():
    def unrolled(self, x):
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return h

    line = unrolled.__code__.co_firstlineno + 3
    x = drawn(2, 3, 5)
    with pytest.raises(ConversionError) as told:
        convert(Written(unrolled, cell=nn.GRUCell(5, 4)).double(), Delta(), example=x)
    assert str(told.value).count("there is no rule") == 1  # for three steps of one line
    assert f"GRUCell at 'cell' ({__file__}:{line})" in str(told.value)
    assert "sl.nn.Recurrent" in str(told.value)
    last = Written(lambda self, x: self.rnn(x)[0][:, -1], rnn=nn.LSTM(5, 4, batch_first=True)).double()
    with pytest.raises(ConversionError, match="no rule for LSTM at 'rnn'"):
        convert(last, Delta(), example=x)
    assert off(convert(last, Delta(), example=x, on_unknown="keep"), last, x, T=3) < 1e-12
    pruned = nn.Sequential(nn.Linear(5, 4))
    prune.random_unstructured(pruned[0], "weight", 0.5)
    with pytest.raises(ConversionError, match=r"Linear at '0' has hooks.*call torch\.nn\.utils\.prune\.remove with it"):
        convert(pruned, Delta(), example=x[:, 0])


@pytest.mark.parametrize(
    "method", [Rate(unit=True), Calibrated(Rate(unit=True), T=6, weights=True)], ids=["rate", "cal"]
)
@torch.no_grad()
def test_thresholds_move_into_the_weights_before_and_change_nothing(method):
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.ConvTranspose2d(4, 6, 2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 5), nn.ReLU(), nn.Linear(5, 3)),
    )
    model = model.double().eval()
    x = drawn(30, 2, 8, 8)
    plain = Rate() if isinstance(method, Rate) else Calibrated(Rate(), T=6, weights=True)
    one, other = (convert(model, m, example=x) for m in (method, plain))
    torch.testing.assert_close(one(x, T=6), other(x, T=6), rtol=0, atol=1e-9)
    assert [float(m.v_threshold) for m in one.network.modules() if isinstance(m, IF)] == [1.0, 1.0, 1.0]
    assert "its threshold in those before" in str(one.report)
    for a, b in zip(one.report.layers, other.report.layers, strict=True):
        assert torch.equal(a.threshold, b.threshold)
        assert abs(a.error - b.error) < 1e-9


def test_a_single_layer_has_to_be_in_a_model():
    for f in (inspect, lambda model, x: convert(model, Rate(), example=x)):
        with pytest.raises(ConversionError, match=r"the model is one layer, Linear, .* nn.Sequential\(model\)"):
            f(nn.Linear(4, 3), torch.rand(2, 4))

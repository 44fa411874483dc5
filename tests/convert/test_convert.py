"""sl.convert: spike counts of the peer, closed forms, what is folded, kept and refused; results are networks."""

import copy
import importlib.util
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom.convert import (
    QCFS,
    Balanced,
    Calibrated,
    ConversionError,
    Delta,
    Exact,
    FewSpikes,
    Rate,
    Rules,
    convert,
    inspect,
    rule,
)  # fmt: skip

GOLDEN = np.load(Path(__file__).parents[1] / "reference" / "convert.npz")


class Peer(nn.Module):
    """The network of make_convert.py."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8),
            nn.ReLU(), nn.Flatten(), nn.Linear(128, 20), nn.ReLU(), nn.Linear(20, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.network(x)


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def peer():
    net = Peer().double().eval()
    net.load_state_dict({k.removeprefix("weights/"): golden(k) for k in GOLDEN if k.startswith("weights/")})
    return net


SITES = ("network.2", "network.6", "network.9")


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("mode", ["ratio", "robust", "channel", "half"])
def test_spike_counts_and_outputs_are_those_of_the_peer_with_its_thresholds(mode, fold):
    thresholds = {path: golden(f"{mode}/threshold{i}") for i, path in enumerate(SITES)}
    method = Rate(threshold=thresholds, v_init=0.5 if mode == "half" else 0.0, fold_scales=fold)
    result = convert(peer(), method, example=golden("x"))
    sent, output = result.sent_and_output([golden("x")], 20, SITES)
    for i, path in enumerate(SITES):
        counts = (sent[path] > 0).sum(0)
        assert torch.equal(counts, golden(f"{mode}/count{i}").long()), path
    torch.testing.assert_close(output, golden(f"{mode}/output"), rtol=0, atol=1e-6)  # its scales are float32
    assert [layer.alphabet for layer in result.report.layers] == ["binary" if fold else "graded"] * 3


def test_thresholds_are_those_of_the_peer():
    x = golden("x")
    for mode, method in {
        "ratio": Rate(threshold="layer", quantile=1.0),
        "robust": Rate(threshold="layer", quantile=0.999),
        "channel": Rate(quantile=1.0),
        "half": Rate(quantile=0.999),
        "balanced": Balanced(updates=4),
    }.items():
        batches = [x[i : i + 2] for i in (0, 2, 4, 6)] if mode == "balanced" else [x]
        layers = convert(peer(), method, calibrate=batches).report.layers
        # quantiles come of histograms, whose bins are a thousandth of the largest value
        close = {"rtol": 2e-3, "atol": 1e-3} if mode in ("robust", "half") else {"rtol": 1e-6, "atol": 2e-6}
        for i, layer in enumerate(layers):
            wanted = golden(f"{mode}/threshold{i}").reshape(-1) / (0.93 if mode in ("ratio", "channel") else 1)
            alive = wanted > 1e-5  # the peer's thresholds are at least 1e-6 after each batch
            torch.testing.assert_close(layer.threshold[alive], wanted[alive], **close)


class Res(nn.Module):
    """Functional and in-place ReLUs, one module called twice, a skip and a max pool."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU(inplace=True)
        self.fc1, self.fc = nn.Linear(54, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.relu(self.bn2(self.conv2(x)) + x))
        return self.fc(self.relu(self.fc1(x.view(x.size(0), -1))))


class Tokens(nn.Module):
    """A small transformer with a class token, positions, LayerNorm, softmax attention and GELU."""

    def __init__(self):
        super().__init__()
        self.embed, self.qkv, self.proj = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 6, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.fc1, self.fc2, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.pos
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1) * 2 + 0.5)


def made(kind, seed=0):
    torch.manual_seed(seed)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return model.double().eval()


X = torch.rand(24, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
WORDS = torch.randn(5, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def quantised(x, theta, T):
    return torch.floor(T * x / theta + 0.5).clamp(0, T) * theta / T


def test_two_layers_have_the_closed_form_of_rate_coding():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    x = torch.rand(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    theta = torch.linspace(0.31, 0.77, 7, dtype=torch.float64)
    for T in (1, 5, 16):
        result = convert(model, Rate(threshold={"1": theta}), example=x)
        torch.testing.assert_close(result(x, T=T), model[2](quantised(model[0](x), theta, T)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_settled_network_is_the_quantised_one():
    model, L = made(Res), 7
    thetas = {"relu_1": torch.linspace(0.7, 1.3, 6).double(), "relu": 1.1371, "relu_2": 0.5377}
    result = convert(model, Exact(levels=L, threshold=thetas), example=X)
    t1, t2, t3 = thetas["relu_1"].view(-1, 1, 1), thetas["relu"], thetas["relu_2"]
    h = quantised(model.bn1(model.conv1(X)), t1, L)
    h = model.pool(quantised(model.bn2(model.conv2(h)) + h, t2, L))
    wanted = model.fc(quantised(model.fc1(h.flatten(1)), t3, L))
    torch.testing.assert_close(result(X, T=8 * L), wanted, rtol=0, atol=1e-10)
    assert float((result(X, T=2) - wanted).abs().max()) > 0.1  # before, it means nothing


@torch.no_grad()
def test_two_phases_are_the_quantised_network_for_each_number_of_steps():
    model = made(Res)
    thetas = {"relu_1": torch.linspace(0.7, 1.3, 6).double(), "relu": 1.1371, "relu_2": 0.5377}
    result = convert(model, Exact(threshold=thetas, mode="two_phase"), example=X)
    for T in (1, 2, 8, 16):
        h = quantised(model.bn1(model.conv1(X)), thetas["relu_1"].view(-1, 1, 1), T)
        h = model.pool(quantised(model.bn2(model.conv2(h)) + h, thetas["relu"], T))
        wanted = model.fc(quantised(model.fc1(h.flatten(1)), thetas["relu_2"], T))
        torch.testing.assert_close(result(X, T=T), wanted, rtol=0, atol=1e-10)
    sent = result.sent([X], 8, ("relu",))["relu"]
    assert sorted(sent.unique().tolist()) == [0.0, pytest.approx(1.1371 / 8)]
    with pytest.raises(ValueError, match="Waiting at 'relu' is not causal"):
        result.network.stream()


@pytest.mark.parametrize(("kind", "x"), [(Res, X), (Tokens, WORDS)], ids=["cnn", "transformer"])
@torch.no_grad()
def test_delta_comes_to_the_model_whatever_it_is_made_of(kind, x):
    model = made(kind)
    wanted = model(x)
    errors = [
        float((convert(model, Delta(levels=n), example=x)(x, T=n) - wanted).norm() / wanted.norm()) for n in (4, 24)
    ]
    assert errors[0] < 0.3
    assert errors[1] < 1e-6


def test_with_all_of_an_activation_sent_a_transformer_is_exact_at_every_step():
    def all_of_it(site, method):
        return sl.SigmaDelta(v_threshold=0.0, activation=site.operation.function)

    model = made(Tokens)
    result = convert(model, Delta(), example=WORDS, rules=Rules(rule("gelu")(all_of_it)))
    spread = torch.rand(4, 1, 1, 1, dtype=torch.float64)
    spread /= spread.sum()
    y = result.network(WORDS * spread)
    torch.testing.assert_close(y.sum(0), model(WORDS), rtol=0, atol=1e-12)
    torch.testing.assert_close(y[:2].sum(0), model(WORDS * spread[:2].sum()), rtol=0, atol=1e-12)
    fates = {(e.was, e.fate) for e in result.report.others}
    assert fates >= {("norm", "difference"), ("attention", "difference"), ("addition", "exact"), ("affine", "exact")}


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.place = nn.Embedding(11, 8), nn.Embedding(7, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, ids):
        x = self.norm(self.word(ids) + self.place(torch.arange(ids.shape[1])))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.fc2(F.relu(self.fc1(x))).mean(1)


@torch.no_grad()
def test_words_are_embedded_once():
    model, ids = made(Words), torch.randint(11, (9, 6), generator=torch.Generator().manual_seed(0))
    for method, T, atol in ((Delta(levels=24), 30, 1e-6), (Rate(quantile=1.0), 300, 0.01), (FewSpikes(K=12), 1, 0.01)):
        result = convert(model, method, example=ids)
        torch.testing.assert_close(result(ids, T=T), model(ids), rtol=0, atol=atol)


class ByHand(nn.Module):
    """An RMS norm and a gate, written out."""

    def __init__(self):
        super().__init__()
        self.gain, self.up, self.down = nn.Parameter(torch.rand(6) + 0.5), nn.Linear(6, 16), nn.Linear(8, 6)

    def forward(self, x):
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain
        a, b = self.up(h).chunk(2, dim=-1)
        return x + self.down(F.silu(a) * b) - 0.5 * (x**2).exp() / (1 + x.abs())


@torch.no_grad()
def test_norms_and_gates_that_are_written_out_are_exact():
    def all_of_it(site, method):
        return sl.SigmaDelta(v_threshold=0.0, activation=site.operation.function)

    model = made(ByHand)
    result = convert(model, Delta(), example=WORDS, rules=Rules(rule("silu")(all_of_it)))
    torch.testing.assert_close(result(WORDS, T=3), model(WORDS), rtol=0, atol=1e-12)


def test_a_mean_computes_functions_of_several_values_on_running_means():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, theta = WORDS[:, 0], 1.0571
    result = convert(model, Rate(threshold={"2": theta}), example=x)
    wanted = model[3](quantised(model[:2](x), theta, 32))
    torch.testing.assert_close(result(x, T=32), wanted, rtol=0, atol=1e-10)


def test_qcfs_trains_what_rate_coding_computes():
    model = nn.Sequential(nn.Linear(5, 7), QCFS(6, scale=0.9), nn.Linear(7, 3)).double()
    x = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = convert(model, Rate(), example=x)
    torch.testing.assert_close(result(x, T=6), model(x), rtol=0, atol=1e-12)
    assert float(result.report.layers[0].threshold) == pytest.approx(0.9)
    q, v = QCFS(4, scale=2.0).double(), torch.tensor([-1.0, 0.9, 5.0], dtype=torch.float64, requires_grad=True)
    y = q(v)
    assert y.tolist() == [0.0, 1.0, 2.0]
    by_v, by_scale = torch.autograd.grad(y.sum(), (v, q.scale))
    assert by_v.tolist() == [0.0, 1.0, 0.0]
    assert float(by_scale) == pytest.approx(0.0 + (1.0 - 0.9) / 2 + 1.0)


def test_calibration_takes_the_mean_error_out():
    model = made(Res)
    x = X.repeat(3, 1, 1, 1) + 0.05 * torch.randn(72, 1, 6, 6, dtype=torch.float64)
    rate = Rate(threshold="layer", quantile=0.97, fold_scales=False)
    plain, better = (
        convert(model, m, calibrate=[x], T=6)
        for m in (rate, Calibrated(rate, T=6, rounds=3, weights=False, voltages=False))
    )
    with torch.no_grad():
        h = F.relu(model.bn1(model.conv1(x)))
    means = []
    for result in (plain, better):
        sent = result.sent([x], 6, ("relu_1",))["relu_1"].mean(0)
        means.append(float((sent.mean((0, 2, 3)) - h.mean((0, 2, 3))).abs().max()))
    assert means[1] < 0.25 * means[0]
    assert better.report.output < plain.report.output
    assert type(better.method.base) is Rate
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    for voltages in (False, True):
        report = convert(pooled, Calibrated(voltages=voltages), example=X).report
        assert ("no bias before '2' to calibrate" in str(report)) is not voltages


@torch.no_grad()
def test_few_spikes_are_exact_to_their_bits_in_one_step():
    def error(kind, x, **options):
        model = made(kind)
        return float((convert(model, FewSpikes(**options), example=x)(x, T=1) - model(x)).norm() / model(x).norm())

    coarse, fine = (error(Res, X, K=K, tables=1) for K in (3, 9))  # a ReLU is one straight piece
    assert fine < coarse / 32 < 0.01
    assert error(Tokens, WORDS, K=9, tables=4) < 0.05


FIRST = ("rate", "calibrated", "delta", "exact")
METHODS = {
    "rate": Rate(), "mse": Rate(threshold="mse", T=8), "difference": Rate(pool="difference", fold_scales=False),
    "balanced": Balanced(updates=20), "calibrated": Calibrated(T=8), "delta": Delta(), "exact": Exact(),
    "few": FewSpikes(),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in METHODS if n not in FIRST)]
)
def test_a_result_is_an_ordinary_network(name):
    """The model is left alone, names of weights stay, and streams, copies, pickles and gradients work."""
    model = made(Res).train()
    before, T = copy.deepcopy(model.state_dict()), 4
    result = convert(model, METHODS[name], calibrate=[(X, torch.zeros(24)), (X[:5], torch.zeros(5))])
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    kept = {k for k in before if not k.startswith("bn")} | {"conv2.bias"}
    assert kept <= {k.removeprefix("body.") for k in result.network.state_dict()}
    y = result(X, T=T)
    assert y.dtype == torch.float64
    assert torch.equal(pickle.loads(pickle.dumps(result))(X, T=T), y)
    assert torch.equal(copy.deepcopy(result)(X, T=T), y)
    stream = result.network.stream()
    with torch.no_grad():
        steps = torch.stack([stream(x_t) for x_t in result.encode(X, T=T)[0]])
    torch.testing.assert_close(result.decode(steps), y.detach(), rtol=0, atol=1e-10)
    y.sum().backward()
    if name != "exact":  # whose neurons have no gradient
        assert all(p.grad is not None for p in result.network.parameters())
    assert "3 converted" in result.report.summary
    assert len(result.report.folded) == 2
    assert math.isfinite(result.report.output)


def test_packed_spikes_travel_between_layers_and_change_nothing():
    model, x = peer(), golden("x")
    dense, packed = (convert(model, Rate(), example=x, spikes=s) for s in ("dense", "packed"))
    assert torch.equal(dense(x, T=9), packed(x, T=9))
    _, found = packed.network(*packed.encode(x, T=9), record=("network.6.output",))
    assert isinstance(found.record["network.6.output"], sl.SpikeTensor)
    assert isinstance(dense.network.body, nn.Sequential)  # whose first layers run once


def test_packed_spikes_pass_through_any_forward():
    model = made(Res)
    dense, packed = (convert(model, Rate(), example=X, spikes=s) for s in ("dense", "packed"))
    torch.testing.assert_close(packed(X, T=9), dense(X, T=9), rtol=0, atol=1e-12)
    _, found = packed.network(*packed.encode(X, T=9), record=("relu.output", "pool.output"))
    assert all(isinstance(s, sl.SpikeTensor) for s in found.record.values())


class Dicts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, given):
        h = torch.relu(self.a(given["x"]) + given["y"])
        return {"out": self.b(h), "both": [h.sum(1), given["x"] * 2]}


@torch.no_grad()
def test_inputs_and_outputs_may_be_dicts():
    model = made(Dicts)
    given = {"x": torch.rand(6, 3, dtype=torch.float64), "y": torch.rand(6, 4, dtype=torch.float64)}
    for method, T, atol in ((Delta(levels=24), 30, 1e-6), (Rate(quantile=1.0), 400, 0.03)):
        result = convert(model, method, example=given, calibrate=[given, (given, torch.zeros(6))])
        torch.testing.assert_close(result(given, T=T), model(given), rtol=0, atol=atol)
        with pytest.raises(TypeError, match=r"of another structure: \{'x': '\*', 'y': '\*'\}"):
            result(given["x"], T=T)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # Dynamo's own doing,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as this is,
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated")  # and this
def test_results_compile_and_export():
    model = made(Res).float()
    for method in (Rate(), Delta()):
        result = convert(model, method, example=X.float())
        xs, net = result.encode(X.float(), T=3), result.network.eval()
        wanted = net(*xs).detach()
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(*xs), wanted)
            torch.testing.assert_close(torch.export.export(net, xs).module()(*xs), wanted)


REFUSED = {
    "TupleOut": "no rule for max ",  # with indices
    "Tensors": "no rule for gt ",
    "Recurrence": "no rule for LSTM at 'lstm'",
    "BatchInGroups": "expected dimension 0 to be T\\*B",  # samples become channels
    "OtherLength": "expected dimension 0 to be T\\*B",  # one output has no rows of samples
    "WriteToAPart": "no rule for fill ",
}


@pytest.mark.slow
@torch.no_grad()
def test_models_that_can_be_captured_are_converted_or_refused_with_the_reason():
    path = Path(__file__).parents[1] / "core" / "test_graph.py"
    spec = importlib.util.spec_from_file_location("models_to_capture", path)
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    x, done = models.X.double(), 0
    kinds = [kind for kind, _ in models.WALKED] + [models.WriteToWhatHasAView, models.WriteToAPart, models.Copies]
    for kind in kinds:
        model = models.made(kind).double()
        if kind.__name__ in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[kind.__name__]):
                convert(model, Delta(levels=24), example=x, readout="spikes")
            continue
        result = convert(model, Delta(levels=24), example=x, readout="spikes")
        for batch in (x, x[:2] * 0.5):
            torch.testing.assert_close(result(batch, T=30), model(batch), rtol=1e-5, atol=1e-6)
        done += 1
    assert done == len(kinds) - len(REFUSED)


def test_a_curve_is_the_accuracy_of_prefixes():
    model, labels = made(Res), torch.arange(24) % 4
    for method in (Rate(delay=1), Delta()):
        result = convert(model, method, example=X)
        curve = result.curve(X, labels, steps=(2, 4, 9), batch_size=7)
        for T, share in curve.items():
            assert share == float((result(X, T=T).argmax(1) == labels).double().mean())
    with pytest.raises(ValueError, match="T must be more than the delay, 1, got 1"):
        convert(model, Rate(delay=1), example=X)(X, T=1)


@pytest.mark.parametrize("method", [Rate(), Rate(delay=3), Delta()], ids=["mean", "delay", "sum"])
def test_steps_run_in_parts_where_nobody_asks_for_gradients(method, monkeypatch):
    """Of 60 rows at most, 24 samples at two steps each: the state goes on, and the outputs are those of one run."""
    monkeypatch.setattr("spikeloom.convert.result._ROWS", 60)
    result, rows = convert(made(Res), method, example=X), []
    whole = result.network(*result.encode(X, T=7))
    handle = result.network.get_submodule("body.fc").register_forward_hook(lambda m, a, y: rows.append(len(y)))
    with torch.no_grad():
        parts, value = result.outputs(X, T=7), result(X, T=7)
    handle.remove()
    assert max(rows) == 48
    assert sum(rows) == 2 * 7 * 24
    torch.testing.assert_close(parts, whole.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(value, result.decode(whole).detach(), rtol=0, atol=1e-12)


def test_the_report_splits_errors():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = torch.tensor([[0.3], [0.9], [2.0], [-1.0]], dtype=torch.float64)
    (layer,) = convert(model, Rate(threshold={"1": 1.0}), example=x, T=2).report.layers
    size = (0.09 + 0.81 + 4.0) ** 0.5  # two steps give .5, 1, 1 and 0
    assert layer.clipping == pytest.approx(1.0 / size)
    assert layer.quantisation == pytest.approx((0.2**2 + 0.1**2) ** 0.5 / size)
    assert layer.error == pytest.approx((0.2**2 + 0.1**2 + 1.0) ** 0.5 / size)
    assert layer.rest == pytest.approx(0.0, abs=1e-12)
    assert (layer.clipped, layer.silent, layer.events) == (0.25, 0.25, (1 + 2 + 2 + 0) / 4)
    text = str(convert(made(Res), Rate(), calibrate=[X]).report)
    assert "its scale stays: addition" in text  # at the skip
    assert f"({__file__}:" in text
    assert text.splitlines()[-1].startswith(
        "3 sites: 3 converted, 0 by difference, 0 kept; 2 norms folded; output exact"
    )


class Unfoldable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.twice, self.alone = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        y = self.first(y) + y  # two users
        y = self.second(F.relu(self.twice(F.relu(self.twice(y)))))  # behind a ReLU; a convolution called twice
        return self.alone(self.twice(y)).mean((2, 3))


class TwoNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.a, self.b = nn.ConvTranspose2d(1, 4, 3, groups=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.grouped, self.c = nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)

    def forward(self, x):
        return F.relu(self.c(self.grouped(F.relu(self.b(self.a(self.up(x))))))).mean((2, 3)) * 2


@pytest.mark.parametrize("method", [Rate(quantile=1.0), Delta(levels=24)], ids=["mean", "sum"])
@torch.no_grad()
def test_norms_fold_only_where_that_changes_nothing(method):
    result = convert(made(Unfoldable), method, example=X)
    assert result.report.folded == ()
    assert result.report.not_folded == {
        "first": "the output of 'conv' has 2 users",
        "second": "there is no layer before it",
        "alone": "'twice' is called more than once",
    }
    assert convert(made(TwoNorms), method, example=X).report.folded == ("a", "b", "c")
    for kind in (Unfoldable, TwoNorms):
        model = made(kind)
        T = 24 if isinstance(method, Delta) else 500
        error = (convert(model, method, example=X)(X, T=T) - model(X)).norm() / model(X).norm()
        assert float(error) < (1e-6 if isinstance(method, Delta) else 0.03)


class Dead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(4, 3), nn.ReLU()

    def forward(self, x):
        return self.last(self.fc(x))


@torch.no_grad()
def test_a_relu_that_is_the_output_is_dropped_with_a_warning():
    model, x = made(Dead), torch.randn(6, 4, dtype=torch.float64)
    assert "is the model's output: cross entropy behind it" in str(inspect(model, x))
    torch.testing.assert_close(convert(model, Rate(), example=x)(x, T=3), model.fc(x), rtol=0, atol=1e-12)
    spiking = convert(model, Rate(quantile=1.0), example=x, readout="spikes")
    assert float((spiking(x, T=200) - model(x)).abs().max()) < 0.02


class Strange(nn.Module):
    def forward(self, x):
        y = torch.cummax(x, 1).values
        return F.silu(x) + y.erfinv()


def test_all_that_cannot_be_converted_is_listed_at_once_with_its_line_and_remedy():
    line = Strange.forward.__code__.co_firstlineno
    with pytest.raises(ConversionError) as told:
        convert(Strange(), Rate(), example=torch.rand(3, 4))
    text = str(told.value)
    assert f"no rule for cummax ({__file__}:{line + 1})" in text
    assert f"no rule for erfinv ({__file__}:{line + 2})" in text
    assert f"Rate has no neuron for silu at 'silu' ({__file__}:{line + 2})" in text
    assert "take Delta" in text
    assert "on_unknown='keep'" in text
    entries = inspect(Strange(), torch.rand(3, 4)).entries
    assert [e.fate for e in entries if e.was in ("cummax", "silu", "erfinv")] == ["refused", "converted", "refused"]


class Sine(nn.Module):
    def forward(self, x):
        return torch.sinc(x)


def test_unknown_operations_are_kept_exact_and_rules_of_classes_come_first():
    model = nn.Sequential(nn.Linear(4, 4), Sine(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    for method in (Rate(), Delta()):
        result = convert(model, method, example=x, on_unknown="keep")
        torch.testing.assert_close(result(x, T=5), model(x), rtol=0, atol=1e-12)
        assert "difference: sinc" in str(result.report)

    @rule(Sine)
    def neuron(site, method):
        return sl.FewSpike.fit(torch.sinc, -4.0, 4.0, K=5, tables=3)

    result = convert(model, FewSpikes(), example=x, rules=Rules(neuron))
    inner, _ = neuron.function(None, None).sequence(model[0](x).unsqueeze(0))
    torch.testing.assert_close(result(x, T=1), model[2](inner[0]), rtol=0, atol=1e-12)
    with pytest.raises(ConversionError, match="the rule for Sine at '1' gave 3; it gives a module"):
        convert(model, Delta(), example=x, rules=Rules(rule(Sine)(lambda site, method: 3)))
    with pytest.raises(TypeError, match="Rules takes what @sl"):
        Rules(neuron.function)


def test_a_rule_for_a_known_activation_may_use_the_calibration():
    @rule("relu")
    def hard(site, method):
        theta = site.number(site.histogram.quantile(1.0))
        return sl.options.Graded(sl.IF(v_threshold=theta, reset="soft"), factor=theta)

    model = made(Res)
    plain = convert(model, Rate(quantile=1.0, v_init=0.0, fold_scales=False), example=X)
    own = convert(model, Rate(), example=X, rules=Rules(hard))
    torch.testing.assert_close(own(X, T=7), plain(X, T=7), rtol=0, atol=1e-12)
    assert own.report.layers == ()
    assert [e.path for e in own.report.others if e.note == "by a rule of its own"] == ["relu_1", "relu", "relu_2"]


def test_models_that_are_not_ordinary_are_refused():
    x = torch.rand(2, 4)
    with pytest.raises(ConversionError, match="LIF at '1' knows time already"):
        convert(nn.Sequential(nn.Linear(4, 4), sl.LIF()), Rate(), example=x)
    with pytest.raises(ConversionError, match="LazyLinear at '0' is lazy"):
        convert(nn.Sequential(nn.LazyLinear(4)), Rate(), example=x)
    hooked = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    handle = hooked[1].register_forward_hook(lambda m, a, y: y + 1)
    with pytest.raises(ConversionError, match="ReLU at '1' has hooks"):
        convert(hooked, Rate(), example=x)
    handle.remove()
    with pytest.raises(ConversionError, match="convert needs what the model takes"):
        convert(hooked, Rate())
    with pytest.raises(
        TypeError, match=r"expected a method such as sl\.convert\.Rate\(\), got the class Rate; construct it"
    ):
        convert(hooked, Rate, example=x)
    with pytest.raises(ConversionError, match="threshold has nothing for relu at '1'"):
        convert(hooked, Rate(threshold={"relu": 1.0}), example=x)
    with pytest.raises(ConversionError, match=r"must be one positive value or 4, got 2 values"):
        convert(hooked, Rate(threshold={"1": [1.0, 2.0]}), example=x)
    with pytest.raises(
        ConversionError, match=r"a batch has to hold inputs as the example's, \[2, 4\]; got a list with \[3, 5\]"
    ):
        convert(hooked, Rate(), example=x, calibrate=[[torch.rand(3, 5), torch.zeros(3)]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rate(threshold="mean"), "threshold must be channel, layer, mse or a dict, got 'mean'"),
        (lambda: Rate(threshold="mse"), "needs the number of steps"),
        (lambda: Rate(quantile=99.9), "quantile must be above 0 and at most 1, got 99.9"),
        (lambda: Rate(pool="max"), "pool must be gate or difference"),
        (lambda: Rate(delay=-1), "delay must be at least 0"),
        (lambda: Rate(unit=True, fold_scales=False), "unit=True needs fold_scales=True"),
        (lambda: Delta(levels=0), "levels must be at least 1"),
        (lambda: Exact(threshold="mse"), "threshold must be channel, layer or a dict"),
        (lambda: Exact(mode="wait"), "mode must be settle or two_phase, got 'wait'"),
        (lambda: FewSpikes(K=1), "K must be at least 2"),
        (lambda: Calibrated(T=0), "T and rounds must be at least 1"),
        (lambda: QCFS(0), "levels must be at least 1"),
    ],
)
def test_methods_check_their_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()

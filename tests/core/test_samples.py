"""Samples never mix: what one of them holds changes no other, in any layer of torch.nn and for inputs of any shape."""

import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn

import spikeloom as sl

T, B = 3, 2


class Calls(nn.Module):
    """A model that calls a layer deep inside it, with keyword arguments."""

    def __init__(self, layer, *names):
        super().__init__()
        self.inner = nn.ModuleDict({"layer": layer})
        self.names = names

    def forward(self, *xs):
        y = self.inner["layer"](**dict(zip(self.names, xs, strict=True)))
        return y[0] if isinstance(y, tuple) else y


def at(*shapes, whole=False):
    """Random inputs ``[T, B, *shape]`` for each argument; whole numbers below 3 where asked for."""
    return tuple(torch.randint(3, (T, B, *s)) if whole else torch.rand(T, B, *s) for s in shapes)


VALUES = [(), (4,), (4, 6), (4, 6, 8), (4, 6, 8, 8)]  # of a sample: what an elementwise layer takes
ONE, TWO, THREE = [(4,), (4, 6)], [(6, 8), (4, 6, 8)], [(4, 6, 8), (4, 4, 6, 8)]
_ELEMENTWISE = """CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU LogSigmoid Mish RReLU ReLU
    ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh Tanhshrink PReLU Dropout AlphaDropout
    FeatureAlphaDropout Dropout1d Dropout2d Dropout3d"""
# name: (how it is made, shapes of a sample that it is tried with)
LAYERS = {
    **{name: (getattr(nn, name), VALUES) for name in _ELEMENTWISE.split()},
    "Threshold": (lambda: nn.Threshold(0.5, 0.1), VALUES),
    "Linear": (lambda: nn.Linear(4, 4), [(4,), (6, 4)]),
    "Linear of rows": (lambda: nn.Linear(T * B, T * B), [(), (6,)]),
    "LazyLinear": (lambda: nn.LazyLinear(4), [(4,), (6, 4)]),
    "Flatten": (lambda: nn.Flatten(-2), VALUES),
    "Unflatten": (lambda: nn.Unflatten(-1, (2, 2)), [(4,), (6, 4)]),
    "Softmax": (lambda: nn.Softmax(-2), VALUES),
    "LogSoftmax": (lambda: nn.LogSoftmax(-3), VALUES),
    "Softmin": (lambda: nn.Softmin(-1), VALUES),
    "GLU": (lambda: nn.GLU(-2), VALUES),
    "Softmax2d": (nn.Softmax2d, TWO),
    "LayerNorm": (lambda: nn.LayerNorm((T * B, 4)), [(4,), (6, 4)]),
    "RMSNorm": (lambda: nn.RMSNorm((T * B, 4)), [(4,), (6, 4)]),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), [(4,), (4, 6)]),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3), VALUES),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(3), TWO),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), TWO),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), TWO),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), VALUES),
    "Fold": (lambda: nn.Fold((2, 4), (2, 2), stride=2), [(2,), (4, 2)]),
    "Unfold": (lambda: nn.Unfold(2), TWO),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), VALUES),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), VALUES),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(scale_factor=2), VALUES),
    "FractionalMaxPool2d": (lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), TWO),
    "FractionalMaxPool3d": (lambda: nn.FractionalMaxPool3d(2, output_ratio=0.5), THREE),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), [(), (4,), (4, 6)]),
}
for d, shapes in ((1, ONE), (2, TWO), (3, THREE)):
    for name, options in {
        "ConvTranspose": (T * B, 4, 2), "Conv": (T * B, 4, 2), "MaxPool": (2,), "AvgPool": (2,), "LPPool": (2, 2),
        "AdaptiveAvgPool": (2,), "AdaptiveMaxPool": (2,), "LazyConv": (4, 2), "LazyConvTranspose": (4, 2),
        "ConstantPad": (1, 0.5), "ZeroPad": (1,), "ReflectionPad": (1,), "ReplicationPad": (1,), "CircularPad": (1,),
        "InstanceNorm": (4,), "LazyInstanceNorm": (), "BatchNorm": (4,), "LazyBatchNorm": (),
    }.items():  # fmt: skip
        LAYERS[f"{name}{d}d"] = (lambda n=f"{name}{d}d", o=options: getattr(nn, n)(*o), [*shapes, (), (4,)])
for name in ("Conv", "ConvTranspose"):  # as many channels as rows, then as values
    for d, shapes in ((1, ONE), (2, TWO), (3, THREE)):
        LAYERS[f"{name}{d}d of channels"] = (lambda n=f"{name}{d}d": getattr(nn, n)(4, 4, 2), shapes)

ATTENTION = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "dropout": 0.0, "batch_first": True}
TOKENS = [(4,), (5, 4)]
_DECODER = nn.TransformerDecoderLayer(**ATTENTION)
# name: (how it is made, names of its arguments, shapes of each, whether they are whole numbers)
OTHERS = {
    "LSTM": (lambda: nn.LSTM(4, 4, batch_first=True), ("input",), TOKENS, False),
    "GRU": (lambda: nn.GRU(4, 4, batch_first=True, bidirectional=True), ("input",), TOKENS, False),
    "RNN": (lambda: nn.RNN(4, 4, batch_first=True), ("input",), TOKENS, False),
    "LSTMCell of rows": (lambda: nn.LSTMCell(T * B, 4), ("input",), [()], False),
    "LSTMCell": (lambda: nn.LSTMCell(4, 4), ("input",), [(4,)], False),
    "GRUCell": (lambda: nn.GRUCell(4, 4), ("input",), [(4,)], False),
    "RNNCell": (lambda: nn.RNNCell(4, 4), ("input",), [(4,)], False),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True), ("query", "key", "value"), TOKENS, False),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(**ATTENTION), ("src",), TOKENS, False),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**ATTENTION), 2), ("src",), TOKENS, False),
    "TransformerDecoderLayer": (lambda: copy.deepcopy(_DECODER), ("memory", "tgt"), TOKENS, False),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(_DECODER, 2), ("memory", "tgt"), TOKENS, False),
    "Transformer": (
        lambda: nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True), ("src", "tgt"), TOKENS, False),
    "Embedding": (lambda: nn.Embedding(3, 4), ("input",), [(), (5,)], True),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(3, 4), ("input",), [(5,)], True),
    "Bilinear": (lambda: nn.Bilinear(4, 4, 4), ("input1", "input2"), [(4,), (5, 4)], False),
    "CosineSimilarity": (lambda: nn.CosineSimilarity(-1), ("x1", "x2"), [(), (4,), (5, 4)], False),
    "PairwiseDistance": (nn.PairwiseDistance, ("x1", "x2"), [(), (4,), (5, 4)], False),
}  # fmt: skip
# Criteria reduce all samples to one number, which no output of a network can be; without a reduction they keep rows.
_CRITERIA = """BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss HingeEmbeddingLoss
    HuberLoss KLDivLoss L1Loss MSELoss MarginRankingLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss
    NLLLoss NLLLoss2d PoissonNLLLoss SmoothL1Loss SoftMarginLoss TripletMarginLoss TripletMarginWithDistanceLoss
    LinearCrossEntropyLoss AdaptiveLogSoftmaxWithLoss"""
CRITERIA = [name for name in _CRITERIA.split() if hasattr(nn, name)]  # some came after the oldest PyTorch
# These hold other modules, run none, or are tried below.
_CONTAINERS = """Container Module ModuleDict ModuleList ParameterDict ParameterList RNNBase RNNCellBase Sequential
    DataParallel MaxUnpool1d MaxUnpool2d MaxUnpool3d"""


def test_every_layer_of_torch_is_tried():
    kinds = {n for n, k in vars(nn).items() if isinstance(k, type) and issubclass(k, nn.Module)}
    tried = {name.split(" ")[0] for name in (*LAYERS, *OTHERS)} | set(CRITERIA) | set(_CONTAINERS.split())
    assert kinds == tried, "a new layer of torch.nn: say here how it is made, and in core/rows.py what it takes"


def other_samples_change(net, xs):
    """Whether sample 1 changes with sample 0; an error that tells path and shape, or torch's own, is as good."""
    net.eval()
    changed = tuple(x.clone() for x in xs)
    for x in changed:
        x[:, 0] = (x[:, 0] + 1) % 3
    with torch.no_grad():
        torch.manual_seed(0)
        y = net(*xs)
        torch.manual_seed(0)
        z = net(*changed)
    return not torch.allclose(y[:, 1], z[:, 1], atol=1e-6)


def tried(make, names, shapes, whole):
    """For each shape whether samples mix, or the error."""
    found = {}
    for shape in shapes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about shapes that may be meant otherwise
            torch.manual_seed(0)
            net = sl.Network(Calls(make(), *names) if names else make())
            try:
                found[shape] = other_samples_change(net, at(*[shape] * max(1, len(names)), whole=whole))
            except (ValueError, RuntimeError) as error:
                found[shape] = str(error)
    return found


@pytest.mark.parametrize("name", [*LAYERS, *OTHERS])
def test_no_sample_changes_another(name):
    found = tried(*OTHERS[name]) if name in OTHERS else tried(*(LAYERS[name][0], (), LAYERS[name][1], False))
    assert True not in found.values(), found
    assert False in found.values() or name.startswith(("LSTMCell", "Conv")), (
        found
    )  # which have as many channels as rows


@pytest.mark.parametrize("d", [1, 2, 3])
def test_unpooling_keeps_samples_apart(d):
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.unpool = (
                getattr(nn, f"MaxPool{d}d")(2, return_indices=True),
                getattr(nn, f"MaxUnpool{d}d")(2),
            )

        def forward(self, x):
            y, at = self.pool(x)
            return self.unpool(y, at) if self.training else self.unpool(y[:, 0], at[:, 0])

    net, x = sl.Network(Pools()), torch.rand(T, B, 4, *[4] * d)
    y = net(x)
    assert torch.equal(y[:, 1], net(torch.cat([x[:, :1] + 1, x[:, 1:]], 1))[:, 1])
    net.eval()
    with pytest.raises(ValueError, match=rf"MaxUnpool{d}d at 'unpool': input is \[6, {', '.join('2' * d)}\], expected"):
        net(x)


@pytest.mark.parametrize("name", CRITERIA)
def test_criteria_give_a_number_for_all_samples_which_is_no_output(name):
    kind = getattr(nn, name)
    extra = {"LinearCrossEntropyLoss": (4, 3), "AdaptiveLogSoftmaxWithLoss": (4, 5, [2])}.get(name, ())

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.criterion = kind(*extra, **{} if name == "AdaptiveLogSoftmaxWithLoss" else {"reduction": "sum"})

        def forward(self, x, target, labels):
            sign = (2 * labels - 1).to(x)
            two = x.softmax(-1), target.softmax(-1)
            three = (*two, x.flip(-1))
            if name == "CTCLoss":
                length = torch.full((x.shape[0],), 2)
                return self.criterion(
                    two[0].log().expand(5, *x.shape), labels[:, None].expand(-1, 2) + 1, length + 1, length
                )
            if name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
                return self.criterion(*three)
            if name in ("CosineEmbeddingLoss", "MarginRankingLoss"):
                inputs = two if name == "CosineEmbeddingLoss" else (x[:, 0], x[:, 1])
                return self.criterion(*inputs, sign)
            if name == "GaussianNLLLoss":
                return self.criterion(*two, x.exp())
            if name == "NLLLoss2d":
                return self.criterion(x[..., None, None], labels[:, None, None])
            if name == "AdaptiveLogSoftmaxWithLoss":
                return self.criterion(x, labels).loss
            if name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "LinearCrossEntropyLoss"):
                return self.criterion(x, labels)
            if name == "MultiLabelMarginLoss":
                return self.criterion(x, labels[:, None].expand(-1, x.shape[1]))
            if name in ("HingeEmbeddingLoss", "SoftMarginLoss"):
                return self.criterion(x, sign[:, None].expand_as(x))
            return self.criterion(*two)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLLLoss2d is deprecated
        net = sl.Network(Scores())
    inputs = (torch.rand(T, B, 4), torch.rand(T, B, 4), torch.randint(2, (T, B)))
    with pytest.raises(ValueError, match=r"output: got \[\], expected dimension 0 to be T\*B = 3\*2 = 6"):
        net(*inputs)
    if name != "AdaptiveLogSoftmaxWithLoss":
        net.body.criterion.reduction = "none"
        assert not other_samples_change(net, inputs)


def remedy(layout, shape, what):
    return re.escape(f"The network expected {layout}; got {shape}: {what}")


BOTH = "pass repeat=T for a still input, run single steps by net.stream(), or add the batch dimension"


@pytest.mark.parametrize(
    "first", [[nn.Identity()], [nn.Identity(), sl.LIF()], [nn.Flatten()]], ids=["linear", "neuron", "flatten"]
)
def test_a_missing_dimension_is_told(first):
    net = sl.Network(*first, nn.Linear(3, 4))
    at = "Flatten at '0'" if first and isinstance(first[0], nn.Flatten) else f"Linear at '{len(first)}'"
    with pytest.raises(ValueError, match=rf"{at}: input is \[21\], .*{remedy('[T, B, *]', [7, 3], BOTH)}"):
        net(torch.rand(7, 3))
    with pytest.raises(ValueError, match=rf"expected \[T, B, \*\]; got \[3\]: {re.escape(BOTH)}"):
        net(torch.rand(3))
    with pytest.raises(ValueError, match=remedy("[B, *] with repeat=T", [3], "add the batch dimension")):
        net(torch.rand(3), repeat=5)
    with pytest.raises(ValueError, match=r"expected \[B, \*\] with repeat=T; got \[\]: add the batch dimension"):
        net(torch.tensor(1.0), repeat=5)
    with pytest.raises(ValueError, match=remedy("[B, *]", [3], "add the batch dimension")):
        net.step(torch.rand(3))
    with pytest.raises(ValueError, match=r"expected \[B, \*\]; got \[\]: add the batch dimension"):
        net.step(torch.tensor(1.0))
    net.batch_first = True
    with pytest.raises(ValueError, match=rf"{at}: .*{remedy('[B, T, *]', [7, 3], BOTH)}"):
        net(torch.rand(7, 3))
    with pytest.raises(ValueError, match=rf"expected \[B, T, \*\]; got \[3\]: {re.escape(BOTH)}"):
        net(torch.rand(3))


@pytest.mark.parametrize("grad", [True, False])
def test_a_missing_dimension_is_told_by_streams(grad):
    net = sl.Network(nn.Conv2d(1, 2, 3), sl.LIF(), nn.Flatten(), nn.Linear(72, 2)).eval()
    stream = net.stream()
    with torch.set_grad_enabled(grad):
        stream(torch.rand(1, 1, 8, 8))
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"Conv2d at '0': input is \[1, 8, 8\], expected \[N, C, H, W\]"
            ) as told:
                stream(torch.rand(1, 8, 8))
            assert "The network expected [B, *]; got [1, 8, 8]: add the batch dimension" in str(told.value)
        stream(torch.rand(1, 1, 8, 8))
        with pytest.raises(ValueError, match=r"expected \[B, \*\]; got \[\]: add the batch dimension"):
            stream(torch.tensor(0.0))


def test_inside_a_loop_and_a_checkpoint_the_path_is_told():
    lstm = nn.LSTM(4, 4, batch_first=True)
    looped = sl.Network(nn.Identity(), sl.Loop(nn.Sequential(nn.Identity(), lstm)))
    with pytest.raises(ValueError, match=r"LSTM at '1.module.1': input is \[2, 4\], expected \[N, L, F\]"):
        looped(torch.rand(3, 2, 4))
    recomputed = sl.Network(sl.memory.Checkpoint(nn.Sequential(nn.Softmax(-2))))
    with pytest.raises(ValueError, match=r"Softmax at '0?\.?module.0': input is \[6, 4\], expected at least 3 dim"):
        recomputed(torch.rand(3, 2, 4))


def test_options_that_are_set_later_are_seen():
    net = sl.Network(nn.Linear(4, 4), nn.Softmax(1))
    net(torch.rand(3, 2, 4))
    net.body[1].dim = 0
    with pytest.raises(TypeError, match=r"Softmax at '1' cannot run inside a Network"):
        net(torch.rand(3, 2, 4))
    net.body[1].dim = -2
    with pytest.raises(ValueError, match=r"Softmax at '1': input is \[6, 4\]"):
        net(torch.rand(3, 2, 4))


def test_layers_outside_a_network_stay_as_they_are():
    layer = nn.Conv1d(1, 2, 3)
    sl.Network(nn.Unflatten(1, (1, -1)), layer)
    torch.testing.assert_close(layer(torch.ones(1, 5)), layer(torch.ones(1, 1, 5))[0])
    again = copy.deepcopy(layer)
    assert torch.equal(pickle.loads(pickle.dumps(again))(torch.ones(1, 5)), layer(torch.ones(1, 5)))


def test_a_lazy_layer_takes_no_shape_from_what_is_refused():
    net = sl.Network(nn.LazyConv1d(2, 3), sl.LIF())
    with pytest.raises(ValueError, match=r"LazyConv1d at '0': input is \[6, 5\]"):
        net(torch.rand(T, B, 5))
    assert net(torch.rand(T, B, 4, 5)).shape == (T, B, 2, 3)
    with pytest.raises(ValueError, match=r"^Conv1d at '0': input is \[6, 5\]"):
        net(torch.rand(T, B, 5))


def test_a_compiled_network_refuses_the_same():
    torch._dynamo.reset()  # what other tests compiled would let it warn
    net = sl.Network(nn.Linear(4, 4), nn.Softmax(-1))
    compiled = torch.compile(net, backend="eager")
    x = torch.rand(3, 2, 4)
    torch.testing.assert_close(compiled(x), net(x))
    net.body[1].dim = -2
    with pytest.raises(ValueError, match=r"Softmax at '1': input is \[6, 4\]"):
        compiled(x)


class Last(nn.LSTM):
    """Layers that are derived from torch's take what those take."""

    def forward(self, x):
        return super().forward(x)[0][..., -1, :]


@pytest.mark.parametrize("first", [nn.Identity(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))])
def test_layers_that_are_derived_from_torchs_are_checked_too(first):
    net = sl.Network(first, Last(4, 3, batch_first=True))
    assert not other_samples_change(net, at((5, 4)))
    with pytest.raises(ValueError, match=r"Last at '1': input is \[6, 4\], expected \[N, L, F\]"):
        net(torch.rand(T, B, 4))
    if isinstance(first, nn.Linear):
        with pytest.raises(ValueError, match=r"ParametrizedLinear at '0': input is \[6\], expected \[N, F\]"):
            net(torch.rand(T, B))


def test_sparse_layers_take_rows():
    net = sl.Network(sl.nn.SparseLinear(T * B, 3, density=0.5))
    assert not other_samples_change(net, at((T * B,)))
    with pytest.raises(ValueError, match=r"SparseLinear: expected \[N, 6\], got \[6\]"):
        net(torch.rand(T, B))


def test_layers_inside_of_an_equation_see_one_step():
    class Normed(sl.Neuron):
        def __init__(self):
            super().__init__()
            self.numbers(v_threshold=1.0)
            self.states(v=0.0)
            self.norm = nn.LayerNorm(4)

        def dynamics(self, x, v):
            v = v + self.norm(x)
            s = self.fire(v - self.v_threshold)
            return s, v - s

    net = sl.Network(nn.Identity(), Normed())
    assert not other_samples_change(net, at((4,)))
    assert net(torch.rand(T, B, 4)).shape == (T, B, 4)

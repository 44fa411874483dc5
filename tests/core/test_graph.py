"""The graph of any forward: captured and equal to the model, or refused with the reason and the user's line."""

import copy
import inspect
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom.core import CaptureError, capture
from spikeloom.core.graph import difference


class Model(nn.Module):
    """What the small models are made of; images [B, 2, 6, 6]."""

    def __init__(self):
        super().__init__()
        self.conv, self.same, self.norm = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.into = nn.ReLU(), nn.ReLU(inplace=True)
        self.fc, self.wide, self.back = nn.Linear(64, 3), nn.Linear(6, 8), nn.Linear(8, 6)
        self.register_buffer("scale", torch.tensor([1.5, -0.5]))
        self.gain = nn.Parameter(torch.tensor(2.0))


class SharedModule(Model):
    def forward(self, x):
        return self.same(self.relu(self.same(x)))


class SharedActivation(Model):
    def forward(self, x):
        return self.relu(self.relu(self.same(x)) - 0.1)


class Functional(Model):
    def forward(self, x):
        return F.relu(self.conv(x)) + torch.relu(self.conv(x) - 1).sigmoid()


class InPlaceModule(Model):
    def forward(self, x):
        y = self.conv(x)
        z = self.into(y)
        return y + z


class InPlaceFunction(Model):
    def forward(self, x):
        y = self.conv(x)
        F.relu(y, inplace=True)
        return F.leaky_relu(y - 0.5, 0.1, True)


class InPlaceMethod(Model):
    def forward(self, x):
        y = self.conv(x)
        y.relu_()
        torch.sigmoid_(y)
        return y.add_(1).mul_(y)


class InPlaceOperator(Model):
    def forward(self, x):
        y = z = self.conv(x)
        y += 1
        y *= 2
        return z


class InPlaceThatGivesItsInput(Model):
    def forward(self, x):
        y = self.conv(x)
        z = F.dropout(y, 0.5, self.training, inplace=True)
        return z + self.into(input=y.unsqueeze_(1).squeeze_(1))


class InPlaceAfterView(Model):
    def forward(self, x):
        return F.relu_(self.conv(x).flatten(1)) @ self.fc.weight.t()


class Clamp(Model):
    def forward(self, x):
        return torch.clamp(self.conv(x), min=0).clamp_max(0.7) + F.hardtanh(self.conv(x), 0, 6)


class Skip(Model):
    def forward(self, x):
        y = self.relu(self.same(x) + x)
        return y + self.same(y) * self.gain


class InPlaceSkip(Model):
    def forward(self, x):
        y = self.norm(self.conv(x))
        y += self.conv(x).tanh()
        return self.into(y)


class UnpackedShape(Model):
    def forward(self, x):
        B, C, H, W = x.shape
        return x.view(B, C * H, W).permute(0, 2, 1).reshape(B, -1)


class SizeMethods(Model):
    def forward(self, x):
        y = self.conv(x)
        return self.fc(y.view(y.size(0), y.shape[1:].numel())) / y.dim() + x.new_ones(x.size(0), 3)


class BatchInGroups(Model):
    def forward(self, x):
        B, C = x.shape[:2]
        y = F.conv2d(x.reshape(1, B * C, 6, 6), x.new_ones(B * C, 1, 3, 3), groups=B * C)
        return y.reshape(B, C, 4, 4)


class Loop(Model):
    def forward(self, x):
        for _ in range(3):
            x = self.relu(self.same(x)) + x
        return x


class LoopOverShape(Model):
    def forward(self, x):
        parts = [x[:, c] * (c + 1) for c in range(x.shape[1])]
        return sum(parts) + sum(part.mean(dim=(1, 2), keepdim=True) for part in x.unbind(1))


class DictIn(Model):
    def forward(self, inputs):
        return {"image": self.same(inputs["image"]), "both": [v.flatten(1).sum(1) for v in inputs.values()]}


class TupleOut(Model):
    def forward(self, x):
        values, where = self.conv(x).flatten(1).max(dim=1)
        return values, (where, {"x": x, "n": 3})


class Cat(Model):
    def forward(self, x):
        first, second = x.chunk(2, dim=1)
        return torch.cat([self.same(x), second, first], dim=1), torch.stack((x, x), 1)


class Pools(Model):
    def __init__(self):
        super().__init__()
        self.most, self.mean = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2)

    def forward(self, x):
        return self.most(x), self.mean(x), F.avg_pool2d(x, 3), F.max_pool2d(x, 2, stride=1), x.mean((2, 3))


class Interpolate(Model):
    def forward(self, x):
        up = F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.interpolate(up, size=x.shape[-2:]) + F.pad(x, (1, 1, 1, 1))[..., 1:-1, 1:-1]


class Attention(Model):
    def forward(self, x):
        q = self.wide(x.flatten(1, 2)).unflatten(2, (2, 4)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q) + (q @ q.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ q
        return self.back(y.transpose(1, 2).flatten(2))


class Norms(Model):
    def __init__(self):
        super().__init__()
        self.layer, self.group = nn.LayerNorm(6), nn.GroupNorm(2, 4)

    def forward(self, x):
        return F.layer_norm(self.layer(x), x.shape[1:]), self.group(self.conv(x))


class ShapeBranch(Model):
    def forward(self, x):
        if x.shape[-1] > 4 and x.ndim == 4 and x.is_floating_point():
            x = self.same(x)
        return x if x.size(1) % 2 else self.relu(x)


class NumberOfShape(Model):
    def forward(self, x):
        return x * float(x.shape[1]) + int(x.shape[2]) ** -0.5 * x.new_ones(x.shape[3])


class OtherLength(Model):
    def forward(self, x):
        rows = self.conv(x).permute(1, 0, 2, 3)
        return torch.cat([rows[i] for i in range(len(rows))], 1), len(x.shape), torch.arange(x.shape[2])


class Keyword(Model):
    def forward(self, x, factor=1.0, *, double=False):
        return self.same(x) * factor * (2 if double else 1)


class Stars(Model):
    def forward(self, *args, **kwargs):
        return args[0] + self.same(args[1]) * kwargs["mask"]


class Buffers(Model):
    def forward(self, x):
        return x * self.scale.view(1, 2, 1, 1) + self.gain * self.fc.weight.sum()


class Tensors(Model):
    def forward(self, x):
        return torch.where(x > 0, x, torch.tensor(0.25)) * torch.linspace(0, 1, 6)


class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        x = x.flatten(1, 2)
        return x + self.attention(x, x, x, need_weights=False)[0]


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x):
        return self.encoder(x.flatten(1, 2))


class Recurrence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(12, 5, batch_first=True)

    def forward(self, x):
        y, (h, _) = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return y[:, -1] + h[0]


X = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
PER_SAMPLE = torch.tensor([[1.0], [2.0], [0.5]])[:, :, None, None]
WALKED = [
    (SharedModule, ["same", "relu", "same"]),
    (SharedActivation, ["same", "relu", "relu"]),
    (Functional, ["conv", "conv"]),
    (InPlaceModule, ["conv", "into"]),
    (InPlaceFunction, ["conv"]),
    (InPlaceMethod, ["conv"]),
    (InPlaceOperator, ["conv"]),
    (InPlaceThatGivesItsInput, ["conv", "into"]),
    (InPlaceAfterView, ["conv"]),
    (Clamp, ["conv", "conv"]),
    (Skip, ["same", "relu", "same"]),
    (InPlaceSkip, ["conv", "norm", "conv", "into"]),
    (UnpackedShape, []),
    (SizeMethods, ["conv", "fc"]),
    (BatchInGroups, []),
    (Loop, ["same", "relu"] * 3),
    (LoopOverShape, []),
    (TupleOut, ["conv"]),
    (Cat, ["same"]),
    (Pools, ["most", "mean"]),
    (Interpolate, []),
    (Attention, ["wide", "back"]),
    (Norms, ["layer", "conv", "group"]),
    (ShapeBranch, ["same", "relu"]),
    (NumberOfShape, []),
    (OtherLength, ["conv"]),
    (Buffers, []),
    (Tensors, []),
    (Multihead, ["attention"]),
    (Encoder, ["encoder"]),
    (Recurrence, ["lstm"]),
]


def made(kind):
    torch.manual_seed(1)
    return kind().eval()


def paths(graph):
    return [node.path for node in graph if node.kind == "module"]


def line(kind, text):
    """File and line of a model's forward that holds a text."""
    lines, start = inspect.getsourcelines(kind.forward)
    return f"{__file__}, line {start + next(i for i, code in enumerate(lines) if text in code)}"


def check(graph, model, *args, **kwargs):
    """The graph gives what the model gives, on inputs that it was not captured with."""
    before = [x.clone() for x in args if isinstance(x, torch.Tensor)]
    got = graph(*args, **kwargs)
    assert all(torch.equal(x, y) for x, y in zip((a for a in args if isinstance(a, torch.Tensor)), before, strict=True))
    torch.testing.assert_close(got, model(*copy.deepcopy(args), **kwargs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "modules"), WALKED, ids=lambda v: getattr(v, "__name__", ""))
def test_what_can_be_walked_through_is_and_equals_the_model_on_any_batch(kind, modules):
    model = made(kind)
    graph = capture(model, X)
    assert graph.fallback == ""
    assert paths(graph) == modules
    for batch in (1, 3, 7):
        check(graph, model, torch.randn(batch, *X.shape[1:]))
    for node in graph:
        assert node.kind not in ("module", "function") or node.where.startswith(f"{__file__}:"), node
        assert all(node in source.users for source in node.inputs)


def test_inputs_and_outputs_may_be_dicts_and_lists():
    model = made(DictIn)
    graph = capture(model, {"image": X, "more": X[:, :1]})
    assert (graph.fallback, [node.path for node in graph.inputs]) == ("", ["[0]['image']", "[0]['more']"])
    check(graph, model, {"image": torch.randn(5, 2, 6, 6), "more": torch.randn(5, 1, 6, 6)})
    with pytest.raises(TypeError, match=r"captured with inputs \{'image': '\*', 'more': '\*'\}; got \*"):
        graph(X)


def test_any_number_of_arguments():
    model = made(Stars)
    graph = capture(model, (X, X + 1), kwargs={"mask": PER_SAMPLE})
    assert (graph.fallback, paths(graph)) == ("", ["same"])
    check(graph, model, X[:2], X[1:], mask=PER_SAMPLE[:2])


def test_a_number_is_fixed_as_the_example_has_it_and_another_raises():
    model = made(Keyword)
    graph = capture(model, X, kwargs={"factor": 3.0, "double": True})
    check(graph, model, X[:2], factor=3.0, double=True)
    with pytest.raises(ValueError, match=r"captured with 3\.0, got 1\.0"):
        graph(X, factor=1.0, double=True)
    with pytest.raises(TypeError, match="captured with inputs"):  # the default is another number, too
        graph(X)


class WriteToWhatHasAView(Model):
    def forward(self, x):
        y = self.conv(x)
        z = y.view(y.shape[0], -1)
        y.relu_()
        return self.fc(z)


class WriteToAPart(Model):
    def forward(self, x):
        y = self.conv(x)
        y[:, 0] = 0
        return y


class WriteThroughIdentity(Model):
    def __init__(self):
        super().__init__()
        self.same_one = nn.Identity()

    def forward(self, x):
        y = self.conv(x)
        z = self.same_one(y)
        self.into(z)
        return y


class WriteToAChunk(Model):
    def forward(self, x):
        parts = self.conv(x).chunk(2, 1)
        parts[0].relu_()
        return parts[0] + parts[1]


class Copies(Model):
    def forward(self, x):
        y = torch.zeros_like(x)
        y.copy_(x)
        return torch.add(x, 1, out=y) + y


class Counts(Model):
    """Writes to a buffer, on which nothing depends."""

    def forward(self, x):
        self.scale.add_(1)
        return self.conv(x)


@torch.no_grad()
def test_writes_that_a_walk_cannot_follow_are_left_to_export():
    for kind, why in [
        (WriteToWhatHasAView, "view shares memory with what is written in place"),
        (WriteToAPart, "a part of a tensor is assigned to"),
        (WriteThroughIdentity, "conv shares memory"),
        (WriteToAChunk, "shares memory"),
        (Copies, "copy_ writes in place and has no form that does not"),
        (Counts, "scale is written to"),
    ]:
        model = made(kind)
        graph = capture(model, X)
        assert why in graph.fallback, kind
        assert __file__ in graph.fallback
        torch.testing.assert_close(model.scale, torch.tensor([1.5, -0.5]))  # the model is left as it was
        for batch in (2, 7):
            check(graph, model, torch.randn(batch, *X.shape[1:]))
        assert all(node.where.startswith(__file__) for node in graph if "conv" in node.name and node.kind == "function")
        assert {"conv.weight", "conv.bias"} >= {n.path for n in graph if n.kind == "tensor" and "conv" in n.path}
    graph = capture(made(WriteToWhatHasAView), X)  # the linear layer sees what the ReLU gives
    relu = next(node for node in graph if node.name == "relu")
    linear = next(node for node in graph if node.name == "linear")
    assert linear.path == "fc"
    assert relu in [source for node in linear.inputs for source in (node, *node.inputs)]


class DataBranch(Model):
    def forward(self, x):
        y = self.same(x)
        if y.sum() > 0:
            return y
        return x


class DataNumber(Model):
    def forward(self, x):
        return x * float(x.abs().max())


class DataBySteps(Model):
    def forward(self, x):
        if x.flatten().tolist()[0] > -100:
            return x + 1
        return x


class SizeOfWhatIsLarge(Model):
    def forward(self, x):
        large = x[x > 1.0]
        return x * len(large) if large.shape[0] > 0 else x


class BatchBranch(Model):
    def forward(self, x):
        if x.shape[0] > 64:
            return x * 2
        return self.same(x)


class BatchLength(Model):
    def forward(self, x):
        return x.reshape(len(x), -1)


class BatchConstant(Model):
    def forward(self, x):
        return self.fc(self.conv(x).view(3, 64))


class EachSample(Model):
    def forward(self, x):
        return torch.stack([self.same(row) for row in x])


@pytest.mark.parametrize(
    ("kind", "code", "walk"),
    [
        (DataBranch, "if y.sum()", "a condition depends on the values of a tensor"),
        (DataNumber, "float(", "a Python number depends on the values of a tensor"),
        (DataBySteps, "if x.flatten", "a condition depends on the values of a tensor"),
        (SizeOfWhatIsLarge, "large.shape", "a condition depends on the values of a tensor"),
        (BatchBranch, "if x.shape", "a condition depends on the batch size"),
        (BatchLength, "len(x)", r"its length is the batch size, which len\(\) would fix: write x.shape\[0\]"),
        (EachSample, "for row", r"its length is the batch size"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_no_graph_can_hold_is_refused_with_both_errors_and_the_line(kind, code, walk):
    with pytest.raises(CaptureError, match=walk) as raised:
        capture(made(kind), X)
    text = str(raised.value)
    assert f"{line(kind, code)}: " in text
    assert "torch.export: " in text
    assert "name its class in leaves=" in text


def test_a_model_that_fixes_the_batch_size_itself_is_refused():
    with pytest.raises(
        CaptureError, match=r"runs on 3 samples and not on 4 .*Take the batch size from x.shape\[0\]"
    ) as e:
        capture(made(BatchConstant), X)
    assert line(BatchConstant, "view(3") in str(e.value)


def test_an_error_of_the_model_is_the_models():
    with pytest.raises(RuntimeError, match="expected input"):
        capture(made(Skip), torch.randn(3, 1, 6, 6))


class Around(nn.Module):
    """A data branch as a module of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.branch = nn.Conv2d(2, 2, 1), DataBranch()

    def forward(self, x):
        return self.branch(self.first(x)).relu()


def test_a_class_in_leaves_is_one_node():
    model = made(Around)
    with pytest.raises(CaptureError):
        capture(model, X)
    graph = capture(model, X, leaves=(DataBranch,))
    assert paths(graph) == ["first", "branch"]
    check(graph, model, torch.randn(5, 2, 6, 6))
    block = nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), DataBranch()).eval()
    assert paths(capture(block, X, leaves=(DataBranch,))) == ["0.0", "0.1", "1"]
    assert paths(capture(nn.Sequential(SharedModule()), X, leaves=(SharedModule,))) == ["0"]


def test_modules_of_torch_that_hold_a_leaf_are_walked_through():
    model = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).eval()
    assert paths(capture(model, torch.randn(3, 4, 6))) == [""]
    sl.replace(model, nn.ReLU, sl.LIF)
    graph = capture(model, torch.randn(5, 3, 4, 6))
    assert {"self_attn", "linear1", "activation", "linear2", "norm1", "norm2"} <= set(paths(graph))


# The guard: each of these graphs would be wrong.


def test_hooks_that_change_something_are_found_and_what_export_makes_of_them_is_right():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[2].register_forward_hook(lambda module, args, y: 2 * y)
    graph = capture(model, torch.randn(3, 4))
    assert "first at '2'" in graph.fallback
    assert "hooks are no part of a graph, remove those at '2'" in graph.fallback
    check(graph, model, torch.randn(6, 4))
    seen = []
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, y: seen.append(y))  # looks on
    assert capture(model, torch.randn(3, 4)).fallback == ""
    model[0].forward = lambda x: x
    assert "first at '0'" in capture(model, torch.randn(3, 4)).fallback


def test_hooks_on_a_spiking_model_are_refused():
    net = sl.Network(nn.Linear(4, 6), sl.LIF(v_threshold=0.1))
    net.body[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with pytest.raises(CaptureError, match=r"hooks are no part of a graph, remove those at '1'.*\n.*take LIF apart"):
        capture(net, torch.rand(5, 3, 4))


def test_dropout_in_training_is_refused_with_the_remedy():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), torch.randn(3, 4)
    state = torch.get_rng_state()
    with pytest.raises(CaptureError, match=r"two runs of the model differ: call model.eval\(\) .*'1'"):
        capture(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert capture(model.eval(), torch.randn(3, 4)).fallback == ""


class Aliased(Model):
    """Writes to its input behind torch's back, as code of C may."""

    def forward(self, x):
        y = self.same(x)
        _double(y)
        return y


def _double(y):
    if type(y) is torch.Tensor:
        y.detach().numpy()[...] *= 2


class BakedIn(Model):
    """Remembers the size of the first batch that it sees."""

    def forward(self, x):
        return x + torch.ones(3).sum() * (type(x) is torch.Tensor)


def test_the_guard_sees_what_no_walk_can():
    for kind in (Aliased, BakedIn):
        model = made(kind)
        with pytest.raises(CaptureError, match="on 3 samples the graph and the model differ by"):
            capture(model, X)


@torch.no_grad()
def test_without_the_guard_these_graphs_would_be_taken(monkeypatch):
    monkeypatch.setattr("spikeloom.core.graph._Capture.guarded", lambda self, graph: graph)
    for model, x in [
        (made(Aliased), X),
        (made(BakedIn), X),
        (nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5)), torch.randn(3, 4)),
    ]:
        assert difference(capture(model, x)(x), model(x))


def test_difference_is_relative_to_the_largest_value_and_exact_for_whole_numbers():
    a = torch.tensor([1.0, 100.0])
    assert difference(a + 0.9e-3, a) == ""
    assert difference(a + 1.1e-3, a) == "differ by 1.1e-05 of the largest value"
    assert difference(a.double(), a) == "give [2] torch.float64 and [2] torch.float32"
    assert difference(a[:1], a) == "give [1] torch.float32 and [2] torch.float32"
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3]))
    assert difference(torch.tensor([torch.nan, 1]), torch.tensor([torch.nan, 1])) == ""
    assert difference(torch.tensor([1.0]), torch.tensor([torch.nan]))
    assert difference(torch.tensor([torch.inf]), torch.tensor([torch.inf])) == ""
    assert difference(torch.tensor([torch.inf]), torch.tensor([1.0]))
    assert difference(torch.tensor([1e-9]), torch.tensor([0.0]))
    assert difference((a, 1), (a, 2)) == "give 1 and 2"
    assert "structures" in difference((a,), [a])
    assert difference(torch.tensor([1 + 1j]), torch.tensor([1 + 2j]))


# Spiking models.


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.lif = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), sl.LIF(v_threshold=0.2)
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), sl.LI())

    def forward(self, x):
        y = self.lif(self.norm(self.conv(x))) + x
        y = self.lif(y - 0.2) if y.shape[1] == 2 else y
        return self.last(y)


def run(net, graph, x):
    """What a network gives with the graph in place of its body."""

    class Captured(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = net.body

        def forward(self, x):
            return graph(x)

    return sl.Network(Captured(), batch_first=net.batch_first)(x)


@pytest.mark.parametrize(
    ("body", "x", "modules"),
    [
        ((nn.Linear(4, 6), nn.BatchNorm1d(6), sl.LIF(v_threshold=0.2), nn.Linear(6, 2)), (5, 3, 4), "0 1 2 3"),
        ((Residual(),), (5, 3, 2, 6, 6), "conv norm lif lif last.0 last.1 last.2"),
        (
            (
                sl.Network(nn.Linear(4, 6), sl.IF(v_threshold=0.1)),
                nn.Sequential(sl.options.Graded(sl.LIF(v_threshold=0.1))),
            ),
            (5, 3, 4),
            "0.0 0.1 1.0",
        ),
        (
            (
                nn.Linear(4, 6),
                sl.nn.Recurrent(sl.LIF(v_threshold=0.1), nn.Linear(6, 6)),
                sl.nn.Inhibition(sl.LIF(v_threshold=0.1)),
            ),
            (5, 3, 4),
            "0 1 2",
        ),
        (
            (sl.memory.Checkpoint(nn.Sequential(nn.Linear(4, 6), sl.LIF(v_threshold=0.1))),),
            (5, 3, 4),
            "module.0 module.1",
        ),
        ((sl.LIF(),), (5, 3, 4), "0"),
    ],
)
def test_a_spiking_model_is_captured_within_a_networks_call(body, x, modules):
    torch.manual_seed(0)
    net = sl.Network(*body).eval()
    x = 2 * torch.rand(x)
    graph = capture(net, x)
    assert paths(graph) == modules.split()
    y = net(x)
    assert y.count_nonzero(), "the test needs spikes"
    assert torch.equal(run(net, graph, x), y)
    assert torch.equal(run(net, graph, x[:, :1]), net(x[:, :1]))
    assert set(net.temporal_modules().values()) <= set(paths(graph))  # the names of states and recordings


def test_layouts_and_a_model_without_a_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), sl.LIF(v_threshold=0.1), nn.Linear(6, 2))
    x = torch.rand(5, 3, 4)
    assert paths(capture(model, x)) == ["0", "1", "2"]
    assert paths(capture(sl.Network(model, batch_first=True), x.transpose(0, 1))) == ["0", "1", "2"]
    assert paths(capture(sl.Network(model), x[0], repeat=6)) == ["0", "1", "2"]
    assert paths(capture(sl.LIF(), x)) == [""]
    with pytest.raises(ValueError, match="nothing to repeat"):
        capture(nn.Linear(4, 2), x[0], repeat=6)
    with pytest.raises(ValueError, match=r"capture: input \[0\]: expected \[T, B, \*\]"):
        capture(model, torch.rand(3))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = sl.LIF()

    def forward(self, x, gain, mask=None):
        return self.lif(x @ gain) * mask


def test_what_has_no_batch_is_passed_as_it_is():
    x, gain, mask = torch.rand(5, 3, 4), torch.eye(4), torch.tensor([1.0, 0.0, 1.0, 1.0])
    graph = capture(sl.Network(Scaled()), (x, sl.static(gain)), kwargs={"mask": mask})
    assert [node.path for node in graph.inputs] == ["[0]", "[1]", "['mask']"]

    class Matrix(nn.Module):
        def forward(self, x, matrix):
            return x @ matrix

    square = torch.rand(4, 4)
    assert len(capture(Matrix(), (torch.rand(3, 4), square)).inputs) == 2
    with pytest.raises(CaptureError, match="not on 5"):  # as many rows as samples
        capture(Matrix(), (torch.rand(4, 4), square))
    graph = capture(Matrix(), (torch.rand(4, 4), sl.static(square)))
    torch.testing.assert_close(graph(torch.ones(2, 4), square), torch.ones(2, 4) @ square)


class SpikingBranch(nn.Module):
    def __init__(self):
        super().__init__()
        self.lif = sl.LIF()

    def forward(self, x):
        return self.lif(x) if x.sum() > 0 else x


def test_a_spiking_model_is_not_taken_apart():
    with pytest.raises(CaptureError, match=r"torch\.export: not tried, it would take LIF apart") as raised:
        capture(sl.Network(SpikingBranch()), torch.rand(5, 3, 4))
    assert line(SpikingBranch, "x.sum()") in str(raised.value)


# What else must hold.


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    net = sl.Network(nn.Linear(4, 6), nn.BatchNorm1d(6), sl.LIF())  # in training mode: batch norm updates its mean
    x = torch.rand(5, 3, 4)
    before = copy.deepcopy(net.state_dict())
    state, hooks = torch.get_rng_state(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    capture(net, x)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if isinstance(v, torch.Tensor))
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    model = made(InPlaceMethod)
    x = X.clone()
    capture(model, x)
    assert torch.equal(x, X)
    assert not any("tensor_constant" in name for name in vars(model))


def test_parameters_and_buffers_are_named_and_followed_when_they_change():
    model = made(Buffers)
    graph = capture(model, X)
    assert {node.path for node in graph if node.kind == "tensor"} == {"scale", "gain", "fc.weight"}
    with torch.no_grad():
        model.scale.add_(1)
        model.gain.mul_(3)
    check(graph, model, X)


def test_another_thread_runs_as_ever_while_a_model_is_walked_through():
    model, other, wrong = made(Skip), made(Loop), []
    wanted, stop = other(X), threading.Event()

    def work():
        while not stop.is_set():
            if not torch.equal(other(X), wanted):
                wrong.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        graphs = [capture(model, X) for _ in range(10)]
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert {tuple(paths(graph)) for graph in graphs} == {("same", "relu", "same")}


def test_a_graph_reads_as_text():
    graph = capture(made(SharedModule), X)
    text = str(graph).splitlines()
    assert text[0] == "input_0 = input at '[0]'"
    assert text[1].startswith("same = module Conv2d (input_0) at 'same' in ")
    assert text[-1].startswith("output = output (")
    assert len(text) == len(graph)


def test_a_refusal_is_an_error_and_nothing_is_printed_beside_it(capfd):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="a condition depends on the values of a tensor"):
        capture(Branches(), torch.rand(3, 2))
    assert capfd.readouterr() == ("", "")

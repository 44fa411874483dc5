"""What does not change over time is computed once, and gives the same."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import spikeloom as sl


class LargestBatch(TorchDispatchMode):
    """Sizes of dimension 0 of every convolution's and linear's input, and the largest tensor of any op."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.largest = [], [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if "convolution.default" in str(func):
            self.conv.append(args[0].shape[0])
        if "addmm" in str(func):
            self.linear.append(args[1].shape[0])
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def model():
    return [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)), sl.LIF(v_threshold=0.2)]


TAIL = [nn.Flatten(), nn.Linear(36, 5)]
IMAGE = torch.rand(3, 1, 8, 8)


def both(build, *, train, image=IMAGE):
    """Outputs and gradients with and without the static prefix."""
    found = []
    for static in (True, False):
        torch.manual_seed(0)
        net = sl.Network(*build(), static_prefix=static).train(train)
        x = image.clone().requires_grad_()
        y = net(x, repeat=6)
        y.pow(2).sum().backward()
        found.append((y, x.grad, [p.grad for p in net.parameters()], net))
    return found


@pytest.mark.parametrize("train", [True, False])
def test_same_outputs_and_gradients(train):
    a, b = both(lambda: [*model(), nn.Flatten(), nn.Linear(36, 5)], train=train)
    assert (a[0] != 0).any()
    torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=1e-4)
    for p, q in zip(a[2], b[2], strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-4)


def test_convolution_runs_once_and_nothing_is_expanded_before_the_neuron():
    net = sl.Network(*model(), *TAIL)
    with LargestBatch() as seen:
        net(IMAGE, repeat=6)
    assert seen.conv == [3]
    assert seen.linear == [18]
    assert seen.largest == 6 * 3 * 4 * 9  # the spikes, not 6 copies of the 6x6 convolution output
    net.static_prefix = False
    with LargestBatch() as seen:
        net(IMAGE, repeat=6)
    assert seen.conv == [18]


def test_an_expanded_input_counts_as_unchanging():
    net = sl.Network(*model(), *TAIL).eval()
    with LargestBatch() as seen:
        y = net(sl.encode.repeat(IMAGE, 6))
    assert seen.conv == [3]
    assert torch.equal(y, net(IMAGE, repeat=6))
    net.batch_first = True
    with LargestBatch() as seen:
        y = net(sl.encode.repeat(IMAGE, 6).transpose(0, 1))
    assert seen.conv == [3]
    assert torch.equal(y, net(IMAGE, repeat=6))


def test_batch_norm_counts_the_samples_once():
    build = lambda: [m.double() for m in model()]  # noqa: E731
    (_, _, _, a), (_, _, _, b) = both(build, train=True, image=IMAGE.double())
    torch.testing.assert_close(a.body[1].running_mean, b.body[1].running_mean)
    n = 3 * 36  # values per channel; unbiased variance of n against that of 6 n values
    ratio = (n / (n - 1)) / (6 * n / (6 * n - 1))
    torch.testing.assert_close(
        (a.body[1].running_var - 0.9) / (b.body[1].running_var - 0.9), torch.full((4,), ratio).double()
    )


def hooked():
    layer = nn.Conv2d(1, 4, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


class Subclass(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "first",
    [
        lambda: nn.Dropout(0.0),
        hooked,
        lambda: Subclass(1, 4, 3),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3)),
    ],
    ids=["dropout in training", "hook", "subclass", "parametrised"],
)
def test_what_may_differ_between_steps_runs_every_step(first):
    first = first()
    layers = [first] if isinstance(first, nn.Conv2d) else [first, nn.Conv2d(1, 4, 3)]
    net = sl.Network(*layers, sl.LIF())
    with LargestBatch() as seen:
        net(IMAGE, repeat=6)
    assert seen.conv == [18]
    if isinstance(first, nn.Dropout):
        net.eval()
        with LargestBatch() as seen:
            net(IMAGE, repeat=6)
        assert seen.conv == [3]


def test_a_neuron_or_another_module_may_come_first():
    x = torch.rand(3, 5)
    direct = sl.LIF(decay_input=False).sequence(x.expand(4, 3, 5))[0]
    assert torch.equal(sl.Network(sl.LIF(decay_input=False), nn.Identity())(x, repeat=4), direct)
    looped = sl.Network(nn.Identity(), sl.Loop(sl.LIF(decay_input=False)))
    assert torch.equal(looped(x, repeat=4), direct)


def test_a_model_without_temporal_modules_gives_the_same_at_every_step():
    net = sl.Network(nn.Linear(5, 2), nn.Tanh())
    x = torch.rand(3, 5)
    assert torch.equal(net(x, repeat=4), net.body(x).expand(4, 3, 2))


def test_recordings_and_state_work_with_a_prefix():
    net = sl.Network(*model()).eval()
    _, a = net(IMAGE, repeat=6, record=("3.v", "3.output"))
    net.static_prefix = False
    _, b = net(IMAGE, repeat=6, record=("3.v", "3.output"))
    for key in ("3.v", "3.output"):
        torch.testing.assert_close(a.record[key], b.record[key], atol=1e-6, rtol=0)
    net.static_prefix = True
    y, r = net(IMAGE, repeat=2, return_state=True)
    z = net(IMAGE, repeat=4, state=r.state)
    torch.testing.assert_close(torch.cat([y, z]), b.record["3.output"])


def test_repeat_with_lengths():
    net = sl.Network(*model()).eval()
    lengths = torch.tensor([2, 6, 4])
    whole, cut = net(IMAGE, repeat=6), net(IMAGE, repeat=6, lengths=lengths)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(cut[:n, b], whole[:n, b])
        assert (cut[n:, b] == 0).all()


def test_the_prefix_reaches_into_nested_sequentials():
    flat = model()
    nested = sl.Network(nn.Sequential(nn.Sequential(*flat[:2]), flat[2], flat[3]), nn.Sequential(*TAIL)).eval()
    with LargestBatch() as seen:
        y = nested(IMAGE, repeat=6)
    assert seen.conv == [3]
    assert torch.equal(y, sl.Network(*flat, *TAIL).eval()(IMAGE, repeat=6))
    assert list(nested(IMAGE, repeat=6, return_state=True)[1].state) == ["0.2"]


def test_a_layer_that_stands_in_a_sequential_twice_runs_twice():
    double = nn.Linear(3, 3, bias=False)
    nn.init.constant_(double.weight, 0.0)
    double.weight.data.fill_diagonal_(2.0)
    net = sl.Network(double, double, sl.IF(reset="none", v_threshold=100.0))
    _, result = net(torch.ones(1, 3), repeat=2, record=("2.v",))
    assert result.record["2.v"][:, 0, 0].tolist() == [4.0, 8.0]


def summing():
    """Twice the input, summed over the steps: v[t] = 2 (x[0] + ... + x[t])."""
    double = nn.Linear(1, 1, bias=False)
    nn.init.constant_(double.weight, 2.0)
    return sl.Network(double, sl.IF(reset="none", v_threshold=1e6))


def test_each_step_of_an_expanded_input_gets_its_own_gradient():
    x = torch.ones(1, 2, 1).expand(4, 2, 1).detach().requires_grad_()
    v = summing()(x, record=("1.v",))[1].record["1.v"]
    v.sum().backward()
    assert x.grad[:, 0, 0].tolist() == [8.0, 6.0, 4.0, 2.0]  # step t is in T - t sums, twice
    base = torch.ones(1, 2, 1, requires_grad=True)
    steps = base.expand(4, 2, 1)
    v = summing()(steps.transpose(0, 1).transpose(0, 1), record=("1.v",))[1].record["1.v"]
    g, h = torch.autograd.grad(v.sum(), [steps, base])
    assert g[:, 1, 0].tolist() == [8.0, 6.0, 4.0, 2.0]
    assert h.flatten().tolist() == [20.0, 20.0]


def test_torch_func_gives_each_step_of_an_expanded_input_its_gradient():
    net = summing()
    last = lambda x: net(x, return_state=True)[1].state["1"]["v"].sum()  # noqa: E731
    every = lambda x: net(x, record=("1.v",))[1].record["1.v"].sum()  # noqa: E731
    x = torch.ones(1, 2, 1).expand(4, 2, 1)
    assert torch.func.grad(last)(x)[:, 0, 0].tolist() == [2.0] * 4
    assert torch.func.grad(every)(x)[:, 1, 0].tolist() == [8.0, 6.0, 4.0, 2.0]


def test_layers_that_work_in_place_leave_the_image_alone():
    for first in (nn.ReLU(inplace=True), nn.Sequential(nn.Identity(), nn.Hardtanh(-0.5, 0.5, inplace=True))):
        x = torch.tensor([[-1.0, 2.0]])
        net = sl.Network(first, nn.Linear(2, 2), sl.LIF())
        net(x, repeat=3)
        net(x.expand(3, 1, 2), repeat=None)
        assert x.tolist() == [[-1.0, 2.0]]
        net(x.requires_grad_(), repeat=3).sum().backward()  # a leaf, which nothing may change


def test_what_depends_on_how_often_a_row_comes_runs_every_step():
    table = nn.Embedding(3, 1, scale_grad_by_freq=True)
    nn.init.constant_(table.weight, 1.0)
    net = sl.Network(table, sl.IF(reset="none", v_threshold=1e6))
    v = net(torch.tensor([0, 2]), repeat=4, record=("1.v",))[1].record["1.v"]
    v.sum().backward()
    assert table.weight.grad.flatten().tolist() == [10 / 4, 0.0, 10 / 4]  # 4 + 3 + 2 + 1, by 4 rows of the same word


def test_one_value_per_channel_is_normalised_over_the_steps():
    for image in (torch.tensor([[3.0, -1.0]]), torch.tensor([[[3.0], [-1.0]]])):
        net = sl.Network(nn.Identity(), nn.BatchNorm1d(2), nn.Tanh(), sl.LI())
        y = net(image, repeat=5)
        assert not y.any()  # equal values have no variance
        torch.testing.assert_close(net.body[1].running_mean, torch.tensor([0.3, -0.1]))
        torch.testing.assert_close(net.body[1].running_var, torch.tensor([0.9, 0.9]))


def test_indices_of_a_pool_pass():
    class Unpool(nn.Module):
        def forward(self, both):
            return torch.nn.functional.max_unpool1d(*both, 2)

    net = sl.Network(nn.MaxPool1d(2, return_indices=True), Unpool(), sl.LI())
    x = torch.rand(2, 3, 4)
    a = net(x, repeat=5)
    net.static_prefix = False
    assert torch.equal(a, net(x, repeat=5))
    assert a.shape == (5, 2, 3, 4)


class Doubled(sl.LIF):
    """A neuron with a sequence of its own."""

    def sequence(self, x, **options):
        return super().sequence(x * 2, **options)


class Centred(sl.LIF):
    """A neuron with a forward of its own."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


@pytest.mark.parametrize("kind", [Doubled, Centred])
@pytest.mark.parametrize("norm", [False, True])
def test_neurons_with_a_sequence_or_forward_of_their_own_run_it(kind, norm):
    first = [nn.BatchNorm1d(4)] if norm else []
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    net = sl.Network(nn.Linear(4, 4), *first, kind(v_threshold=0.2)).train(not norm)
    a, y = net(x, repeat=5), net(x.expand(5, 3, 4).clone())
    net.static_prefix = net.fuse = False
    assert torch.equal(a, net(x, repeat=5))
    assert torch.equal(y, a)
    assert a.any()

"""The modules that coded signals need, by their identities: what is sent adds up to what is meant, at every step."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikeloom as sl
from spikeloom.convert import Change, Difference, First, Messages, Once, Pool, Total, Waiting, inspect
from spikeloom.convert.vocabulary import of_module

F64 = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(0)}


def streamed(module, x):
    """Step by step, as a stream would."""
    state, out = None, []
    for x_t in x:
        y_t, state = module.step(x_t, state=state)
        out.append(y_t)
    return torch.stack(out)


def prefixes(x, coding):
    total = x.cumsum(0)
    return total if coding == "sum" else total / torch.arange(1.0, len(x) + 1).view(-1, *(1,) * (x.ndim - 1))


MODULES = {
    "Total, sum": lambda: Total(),
    "Total, mean": lambda: Total(coding="mean"),
    "Change, sum": lambda: Change(),
    "Change, mean": lambda: Change(coding="mean"),
    "First": First,
    "Once": lambda: Once(nn.Conv2d(4, 6, 3, padding=1, groups=2)).double(),
    "Pool": lambda: Pool(2),
    "Messages": lambda: Messages(scale=1.1, levels=5),
}


@pytest.mark.parametrize("name", MODULES)
def test_streams_split_runs_and_ragged_batches_equal_the_whole(name):
    torch.manual_seed(0)
    module, x = MODULES[name](), torch.randn(7, 3, 4, 6, 6, **F64)
    whole, end = module.sequence(x)
    torch.testing.assert_close(streamed(module, x), whole, rtol=0, atol=1e-12)
    first, state = module.sequence(x[:3])
    second, again = module.sequence(x[3:], state=state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(again, end, rtol=0, atol=1e-12)
    lengths = torch.tensor([7, 2, 5])
    ragged, ends = module.sequence(x, lengths=lengths)
    for b, n in enumerate(lengths):
        torch.testing.assert_close(ragged[:n, b], whole[:n, b], rtol=0, atol=1e-12)
        alone = module.sequence(x[:n, b : b + 1])[1]
        for key, value in ends.items():
            torch.testing.assert_close(value[b], alone[key][0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("coding", ["sum", "mean"])
def test_a_difference_is_its_function_at_every_step_however_the_input_is_spread(coding):
    torch.manual_seed(0)
    x = torch.randn(9, 2, 5, 8, **F64)
    for f in (nn.LayerNorm(8), nn.Softmax(-1), nn.GELU(), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)):
        f = f.double().eval()
        y = sl.Network(Difference(f, coding=coding))(x)
        wanted = f(prefixes(x, coding).flatten(0, 1)).unflatten(0, (9, 2))
        torch.testing.assert_close(prefixes(y, coding), wanted, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="coding must be mean or sum, got 'rate'"):
        Total(coding="rate")


LAYERS = [
    (nn.Linear(4, 5), (4,)),
    (nn.Conv1d(4, 6, 3, stride=2, groups=2), (4, 9)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (4, 5, 6)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (4, 5, 6)),
    (nn.Conv3d(2, 3, 2), (2, 3, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 5, 6)),
    (nn.Linear(4, 5, bias=False), (3, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda v: str(v)[:24])
def test_a_bias_that_comes_once_makes_sums_exact(layer, shape):
    layer = copy.deepcopy(layer).double()
    once, x = Once(layer), torch.randn(5, 2, *shape, **F64)
    y, _ = once.sequence(x)
    for t in range(5):
        torch.testing.assert_close(y[: t + 1].sum(0), layer(x[: t + 1].sum(0)), rtol=0, atol=1e-12)
    assert {name for name, _ in once.named_parameters()} == {name for name, _ in layer.named_parameters()}
    assert once.weight is layer.weight


def test_once_refuses_what_it_cannot_take_apart():
    with pytest.raises(TypeError, match=r"Once: expected one of Linear, Conv1d.*got LSTM"):
        Once(nn.LSTM(2, 2))


@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"padding": 1, "ceil_mode": True}, {"dilation": 2}])
def test_a_pool_passes_the_spikes_of_the_input_that_sent_the_most(options):
    spikes = (torch.rand(12, 2, 3, 7, 6, **F64) < 0.4).double()
    pool = Pool(2, **options)
    y, _ = pool.sequence(spikes)
    counts = torch.zeros_like(spikes[0])
    for t in range(12):  # what it has sent is the largest count of each window
        counts += spikes[t]
        assert torch.equal(y[: t + 1].sum(0), F.max_pool2d(counts, 2, **options))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    packed, _ = pool.sequence(sl.pack(spikes.float()))
    assert isinstance(packed, sl.SpikeTensor)
    assert torch.equal(packed.unpack().double(), y)
    with pytest.raises(ValueError, match="dims must be 1, 2 or 3, got 4"):
        Pool(2, dims=4)


def test_the_pool_of_constant_rates_is_the_largest_rate():
    rates = torch.tensor([0.31, 0.55, 0.23, 0.62], dtype=torch.float64).view(1, 1, 2, 2)
    spikes, _ = sl.IF(reset="soft").sequence(rates.expand(1024, 1, 1, 2, 2))
    y, _ = Pool(2).sequence(spikes)
    assert abs(float(y.mean()) - 0.62) <= 4 / 1024
    assert float(F.max_pool2d(spikes.flatten(0, 1), 2).mean()) > 0.7  # of each step's spikes: too many


@pytest.mark.parametrize("coding", ["sum", "mean"])
def test_sums_over_more_steps_than_sixteen_bits_can_count(coding):
    x = torch.full((600, 1, 2), 0.5).bfloat16()
    total, change, state, other = Total(coding=coding), Change(coding=coding), None, None
    for t in range(600):  # as a stream: 128 + 0.5 is 128 in bfloat16
        y, state = total.step(x[t], state=state)
        sent, other = change.step(x[t], state=other)
    wanted = torch.full((1, 2), 300.0 if coding == "sum" else 0.5).bfloat16()
    assert torch.equal(y, wanted)
    assert torch.equal(total.sequence(x)[0][-1], wanted)
    assert sent.dtype == torch.bfloat16
    assert torch.equal(sent, torch.full((1, 2), 0.0 if coding == "sum" else 0.5).bfloat16())
    assert torch.equal(change.sequence(x)[0][-1], sent)


def test_what_waits_counts_in_sixteen_bits():
    x = torch.zeros(600, 1, 3)
    x[0] = torch.tensor([0.25, 0.5, 0.875])
    sent = Waiting().sequence(x.bfloat16())[0]
    assert sent.dtype == torch.bfloat16
    assert (sent > 0).sum(0).tolist() == [[150, 300, 525]]


def test_inputs_of_one_rate_do_not_pass_spikes_in_turn():
    spikes = torch.zeros(300, 1, 1, 1, 3)
    for i in range(3):
        spikes[i::3, ..., 2 - i] = 1
    for x in (spikes, spikes.bfloat16()):  # which cannot count beyond 256
        y, state = Pool((1, 3)).sequence(x.repeat(4, 1, 1, 1, 1))
        assert y.dtype == x.dtype
        assert y.float().sum() == 400
        assert state["sum"].dtype == torch.float32
        assert Pool((1, 3)).sequence(x, state=state)[0].float().sum() == 100


def test_messages_by_hand():
    x = torch.zeros(5, 1)
    x[0], x[3] = 1.9, -1.0
    # f(X) = 1.9: 1; of .9 again 1 (>= .75); -.1: -1/8 (.1 >= 3/32); then 0.9 is meant and 1.875 sent: -1; .025: nothing
    y, state = Messages(scale=1.0, levels=4).sequence(x)
    assert y.flatten().tolist() == [1.0, 1.0, -0.125, -1.0, 0.0]
    torch.testing.assert_close(state["sent"], torch.tensor([0.875]))
    y, _ = Messages(activation=torch.cos, scale=0.5, levels=2).sequence(torch.zeros(3, 1))  # f(0) = 1 is sent too
    assert y.flatten().tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        Messages(levels=0)


def test_each_message_leaves_a_third_of_the_error_at_most():
    a = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    x = torch.cat([a.unsqueeze(0), torch.zeros(9, 3001, dtype=torch.float64)])
    y, _ = Messages(activation=lambda u: u, levels=10).sequence(x)
    error = (a - y.cumsum(0)).abs()
    least = 0.75 * 2.0**-9
    before = torch.cat([a.abs().unsqueeze(0), error[:-1]])
    assert bool(((error <= before / 3 + 1e-12) | (before < least)).all())
    assert float(error[-1].max()) < least


def test_messages_run_in_a_kernel_and_have_the_gradient_of_their_activation():
    x = torch.randn(6, 3, 8)
    module = Messages(scale=torch.rand(8) + 0.5, levels=6)
    with sl.backend("eager"):
        wanted, _ = module.sequence(x)
    with sl.backend("c"):
        got, _ = module.sequence(x)
    assert torch.equal(got, wanted)
    x = torch.randn(6, 3, 8, dtype=torch.float64, requires_grad=True)
    y, _ = Messages(scale=0.7, levels=4).sequence(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, (x.sum(0) > 0).double().expand(6, 3, 8))


NAMES = "leaky_relu gelu silu elu selu celu mish hardsigmoid hardswish logsigmoid softplus softsign tanh sigmoid"


@pytest.mark.parametrize("name", NAMES.split())
def test_activations_are_torchs_and_have_kernels(name):
    module = {"silu": "SiLU", "logsigmoid": "LogSigmoid"}.get(name, "")
    module = module or next(n for n in dir(nn) if n.lower() == name.replace("_", ""))
    model = nn.Sequential(nn.Identity(), getattr(nn, module)())
    x = torch.linspace(-30, 30, 4001, dtype=torch.float64).unsqueeze(1)
    (entry,) = [e for e in inspect(model, x).entries if e.was == name]
    assert entry.fate == "converted"
    function = of_module(model[1]).function
    torch.testing.assert_close(function(x), model(x), rtol=1e-12, atol=1e-12)
    with sl.backend("c"):
        y, _ = Messages(activation=function, levels=20).sequence(torch.cat([x[None], torch.zeros(60, 4001, 1)]))
    torch.testing.assert_close(y.sum(0), model(x), rtol=0, atol=0.75 * 2.0**-19)

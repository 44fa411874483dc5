"""Gradients with regard to what was recorded: the numbers of the equation, or an error that says how to get them."""

import copy
import io

import pytest
import torch
from torch import nn

import spikeloom as sl

T, B, F = 7, 4, 5
SAYS = r'LIF ran in a kernel, which gives no gradient .* `with sl\.backend\("eager"\):`'


def network(neuron=None, **options):
    torch.manual_seed(0)
    neuron = sl.LIF(v_threshold=0.3) if neuron is None else neuron
    return sl.Network(nn.Linear(3, F), neuron, nn.Linear(F, 2), **options).double()


def inputs():
    g = torch.Generator().manual_seed(1)
    return 2 * torch.rand(T, B, 3, generator=g, dtype=torch.float64), torch.randn(T, B, 2, generator=g).double()


def by_hand(net, x, w, lengths=None):
    """The gradients of ``sum w y`` with regard to u and v at each step, by steps that are written once more."""
    surrogate, first, last = sl.surrogate.ATan(2.0), net.body[0], net.body[2]
    v, us, vs, loss = torch.zeros(B, F, dtype=torch.float64), [], [], 0.0
    for t in range(T):
        h = v + (first(x[t]) - v) / 2
        us.append(h - 0.3)
        s = surrogate(us[-1])
        new = (1 - s) * h
        vs.append(new)
        on = torch.ones(B, 1) if lengths is None else (lengths > t).double().unsqueeze(1)
        v = torch.where(on > 0, new, v)
        loss = loss + (w[t] * on * last(s)).sum()
    found = torch.autograd.grad(loss, [*us, *vs], allow_unused=True, materialize_grads=True)
    return torch.stack(found[:T]), torch.stack(found[T:])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_in_the_loop_the_gradient_is_that_of_the_equation(batch_first, ragged):
    x, w = inputs()
    net, lengths = network(batch_first=batch_first), torch.tensor([7, 3, 5, 1]) if ragged else None
    wanted = by_hand(net, x, w, lengths)
    with sl.backend("eager"):
        y, result = net(x.transpose(0, 1) if batch_first else x, record=("1.u", "1.v"), lengths=lengths)
    y = y.transpose(0, 1) if batch_first else y
    asked = [result.record["1.u"], result.record["1.v"], net.body[0].weight]
    *found, weight = torch.autograd.grad((w * y).sum(), asked, retain_graph=True)
    (alone,) = torch.autograd.grad((w * y).sum(), net.body[0].weight)
    assert torch.equal(weight, alone)
    for a, b in zip(found, wanted, strict=True):
        assert a.abs().max() > 0.05
        torch.testing.assert_close(a.transpose(0, 1) if batch_first else a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ragged", [False, True])
def test_step_by_step_too(ragged):
    """A neuron that a Loop runs, and one in a Recurrent with a feedback of zeros, are the neuron."""
    x, w = inputs()
    lengths = torch.tensor([7, 3, 5, 1]) if ragged else None
    silent = nn.Linear(F, F, bias=False)
    nn.init.zeros_(silent.weight)
    for part, path in ((lambda n: sl.Loop(n), "1.module"), (lambda n: sl.nn.Recurrent(n, silent), "1")):
        net = network(part(sl.LIF(v_threshold=0.3)))
        wanted = by_hand(net, x, w, lengths)
        with sl.backend("eager"):
            y, result = net(x, record=(f"{path}.u", f"{path}.v"), lengths=lengths)
        found = torch.autograd.grad((w * y).sum(), list(result.record.values()))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["1.u", "1.v"])
def test_a_kernel_says_that_it_has_none(name):
    x, w = inputs()
    net = network()
    y, result = net(x, record=(name,))
    loss, recording, weight = (w * y).sum(), result.record[name], net.body[0].weight
    asked = (
        lambda: torch.autograd.grad(loss, recording, retain_graph=True),
        lambda: torch.autograd.grad(loss, [weight, recording], retain_graph=True, allow_unused=True),
        lambda: torch.autograd.grad(loss + recording.sum(), recording, retain_graph=True),
        lambda: recording.retain_grad(),
        lambda: recording.register_hook(print),
        lambda: (loss.backward(inputs=[recording], retain_graph=True), recording.grad),
    )
    for ask in asked:
        with pytest.raises(RuntimeError, match=SAYS):
            ask()
    assert weight.grad is None
    loss.backward()
    assert weight.grad.abs().sum() > 0


def test_a_kernels_steps_are_tensors_that_go_on():
    """A state of one step is what the next one begins with; u of one step is not."""
    x, _ = inputs()
    net = network()
    _, state, first = net.step(x[0], record=("1.v", "1.u"))
    y, _ = net.step(x[1], state=state)
    assert torch.autograd.grad(y.sum(), first["1.v"], retain_graph=True)[0].abs().sum() > 0
    with pytest.raises(RuntimeError, match=SAYS):
        torch.autograd.grad(y.sum(), first["1.u"])


@pytest.mark.parametrize("spikes", ["dense", "packed"])
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_inputs_and_outputs_are_what_flows_on(backend, spikes):
    """Of spikes of one bit each the gradient is dense: ``dL/ds = w W`` behind the last linear layer."""
    x, w = inputs()
    net = network(spikes=spikes).float()
    with sl.backend(backend):
        y, result = net(x.float(), record=("1.output", "1.input", "2.input", "0.output"))
    assert isinstance(result.record["1.output"], sl.SpikeTensor) == (spikes == "packed")
    loss = (w.float() * y).sum()
    grads = dict(zip(result.record, torch.autograd.grad(loss, list(result.record.values())), strict=True))
    wanted = w.float() @ net.body[2].weight
    for name in ("1.output", "2.input"):
        assert type(grads[name]) is torch.Tensor
        torch.testing.assert_close(grads[name], wanted)
    assert torch.equal(grads["1.input"], grads["0.output"])
    assert grads["1.input"].abs().sum() > 0


def test_a_recording_is_a_tensor_to_all_others():
    x, _ = inputs()
    net = network().float()
    y, result = net(x.float(), record=("1.v", "1.u"))
    v = result.record["1.v"]
    assert all(type(t) is torch.Tensor for t in (v.detach(), v * 1, v[0], v.sum(), v.transpose(0, 1), copy.copy(v)))
    assert repr(v).startswith("tensor(")
    assert torch.equal(torch.from_numpy(v.detach().numpy()), v)
    file = io.BytesIO()
    torch.save(result.record, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)["1.v"]
    assert type(again) is torch.Tensor
    assert torch.equal(again, v)
    (a,) = torch.autograd.grad(v.square().sum(), net.body[0].weight, retain_graph=True)
    (b,) = torch.autograd.grad(v, net.body[0].weight, 2 * v.detach(), retain_graph=True)
    torch.testing.assert_close(a, b)
    spikes, _ = sl.LIF().sequence(v)
    assert type(spikes) is torch.Tensor
    sl.plot.traces(v[:, 0])
    with torch.no_grad():
        assert type(net(x.float(), record=("1.v",))[1].record["1.v"]) is torch.Tensor
    assert y.requires_grad


def test_what_computes_all_steps_at_once_says_so():
    y, _, seen = sl.nn.ParallelLIF(sl.LIF(v_threshold=0.3)).sequence(
        torch.rand(4, 2, 3, requires_grad=True), record=("u",)
    )
    with pytest.raises(RuntimeError, match="ParallelLIF computes all steps at once, and gives no gradient"):
        torch.autograd.grad(y.sum(), seen["u"])

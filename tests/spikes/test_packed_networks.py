"""Neurons that hand their spikes on as bits: outputs, gradients and states of dense networks, and what is saved."""

import pytest
import torch
from torch import nn

import spikeloom as sl


def network(spikes, batch_norm=True):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d if batch_norm else (lambda c: nn.Identity())
    return sl.Network(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), norm(8), sl.LIF(v_threshold=0.4), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), norm(16), sl.LIF(v_threshold=0.4), nn.Flatten(),
        nn.Linear(16 * 16, 64), sl.options.Refractory(sl.LIF(v_threshold=0.2), steps=1), nn.Linear(64, 10), sl.LI(),
        spikes=spikes,
    )  # fmt: skip


def saved_bytes(run):
    """Bytes that a forward pass saves for the backward pass, each storage once."""
    seen, total = set(), 0

    def note(t):
        nonlocal total
        storage = t.bits.untyped_storage() if isinstance(t, sl.SpikeTensor) else t.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            total += storage.nbytes()
            kept.append(storage)  # so that no address is used twice
        return t

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        run()
    return total


@pytest.mark.parametrize("mode", ["plain", "channels_last", "repeat", "lengths", "autocast", "eval", "state", "eager"])
def test_packed_networks_are_dense_networks(mode):
    x, found = torch.randn(6, 4, 1, 8, 8), []
    for spikes in ("dense", "packed"):
        net, options, y0 = network(spikes).train(mode != "eval"), {}, None
        if mode == "channels_last":
            net = net.to(memory_format=torch.channels_last)
        if mode == "lengths":
            options["lengths"] = torch.tensor([6, 3, 1, 5])
        if mode == "state":
            y0, result = net(x[:2], return_state=True)
            options["state"] = result.state
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"),
            sl.backend("eager" if mode == "eager" else "auto"),
        ):
            y = net(x[0], repeat=5) if mode == "repeat" else net(x, **options)
        loss = y.float().square().sum() + (0 if y0 is None else y0.sum())
        found.append([y.detach(), *torch.autograd.grad(loss, list(net.parameters()))])
    limit = 0.02 if mode == "autocast" else 2e-5
    for a, b in zip(*found, strict=True):
        assert float((a - b).abs().max()) <= limit * max(float(a.abs().max()), 1e-3)


def test_spikes_are_saved_as_bits():
    """Conv(8 -> 16) and Linear(256 -> 64) save their inputs as bits, the pool saves no indices."""
    x = torch.randn(6, 4, 1, 8, 8)
    found = {}
    for spikes in ("dense", "packed"):
        net = network(spikes, batch_norm=False)
        found[spikes] = saved_bytes(lambda net=net: net(x))
    rows = 24
    values = rows * (
        8 * 64 + 8 * 16 + 16 * 16 + 64
    )  # spikes before and after the pool, of the second LIF, of the third
    indices = 8 * rows * 8 * 16
    assert found["dense"] - found["packed"] == pytest.approx(4 * values + indices - values / 8, rel=0.02)


def test_records_and_outputs_are_spikes():
    net = sl.Network(nn.Linear(3, 16), sl.LIF(v_threshold=0.2), spikes="packed")
    x = torch.randn(5, 2, 3)
    y, result = net(x, record=("1.output", "1.v"))
    dense = sl.Network(nn.Linear(3, 16), sl.LIF(v_threshold=0.2))
    dense.load_state_dict(net.state_dict())
    assert isinstance(y, sl.SpikeTensor)
    assert isinstance(result.record["1.output"], sl.SpikeTensor)
    wanted, reference = dense(x, record=("1.v",))
    assert torch.equal(y.unpack(), wanted)
    assert torch.equal(result.record["1.v"], reference.record["1.v"])
    assert torch.equal(y.sum(0), wanted.sum(0))
    assert y.mean().item() == pytest.approx(wanted.mean().item())
    assert "spikes='packed'" in repr(net)
    stream = net.stream()
    assert torch.equal(torch.stack([stream(x_t) for x_t in x]), wanted)  # small single steps are dense


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_single_steps_are_bits_and_equal_the_sequence(layout):
    """Products add in an order of their own that no batch changes: a stream gives the sequence's bits."""
    torch.manual_seed(0)
    net = sl.Network(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), sl.LIF(v_threshold=0.2), nn.MaxPool2d(2),
        nn.Conv2d(16, 64, 3, padding=1), sl.LIF(v_threshold=0.2), nn.Flatten(),
        nn.Linear(64 * 64, 4096), sl.LIF(v_threshold=0.1), spikes="packed",
    ).eval().to(memory_format=layout)  # fmt: skip
    x = torch.rand(5, 2, 1, 16, 16)
    wanted, stream = net(x), net.stream()
    steps = [stream(x_t) for x_t in x]
    assert all(isinstance(step, sl.SpikeTensor) for step in steps)
    assert torch.equal(torch.stack([step.unpack() for step in steps]), wanted.unpack())
    assert 0.01 < wanted.rate() < 0.5


def test_training_through_single_steps_of_bits():
    """Upstream gradients of a step that are one number, or strided in the batch, reach every sample."""
    found = []
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = sl.Network(nn.Linear(20, 2048), sl.LIF(v_threshold=0.2), spikes=spikes)
        x, weights, stream = torch.rand(3, 4, 20), torch.randn(2048, 4).t(), net.stream()
        steps = [stream(x_t) for x_t in x]
        assert all(isinstance(step, sl.SpikeTensor) == (spikes == "packed") for step in steps)
        loss = steps[0].sum() + (weights * steps[1]).sum() + steps[2].sum(0).pow(2).sum()
        found.append(torch.autograd.grad(loss, list(net.parameters())))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_ragged_batches_stay_bits():
    """The valid steps of spikes are picked as bits, and every result is the dense one."""
    lengths, x = torch.tensor([5, 2, 4]), torch.rand(5, 3, 1, 8, 8)
    seen, found = [], {}
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = sl.Network(
            nn.Conv2d(1, 8, 3, padding=1), sl.LIF(v_threshold=0.3), nn.Conv2d(8, 4, 3), sl.LIF(v_threshold=0.1),
            spikes=spikes,
        )  # fmt: skip
        net.body[2].register_forward_pre_hook(lambda _, args: seen.append((type(args[0]), len(args[0]))))
        y = net(x, lengths=lengths)
        found[spikes] = (y, *torch.autograd.grad(y.sum(), list(net.parameters())))
    assert seen == [(torch.Tensor, 11), (sl.SpikeTensor, 11)]
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b)


def test_one_neuron_may_pack_alone_and_take_spikes():
    x = 0.5 + torch.randn(6, 2, 8)
    lif = sl.LIF(v_threshold=0.3)
    lif.packed = True
    y, state = lif.sequence(x)
    assert isinstance(y, sl.SpikeTensor)
    plain = sl.LIF(v_threshold=0.3)
    plain.load_state_dict(lif.state_dict())  # packing is no part of the dynamics
    assert torch.equal(y.unpack(), plain.sequence(x)[0])
    for backend in ("eager", "auto"):
        with sl.backend(backend):
            assert torch.equal(plain.sequence(y)[0], plain.sequence(y.unpack())[0])
            assert torch.equal(plain.step(y[0])[0], plain.step(y[0].unpack())[0])
    assert state["v"].shape == (2, 8)


def test_neurons_whose_output_is_not_binary_stay_dense():
    kinds = (
        sl.LI(),
        sl.ILIF(),
        sl.TernaryLIF(),
        sl.STBIF(),
        sl.LIAF(),
        sl.SigmaDelta(),
        sl.FewSpike(sl.FewSpikeTable.relu(2, 1.0)),
        sl.options.Graded(sl.LIF(), factor=0.5),
        sl.options.Noisy(sl.LIF(), output=0.1),
        sl.nn.DSRIF(v_threshold=0.7),
        sl.LIF(surrogate=sl.surrogate.Sigmoid(4.0, spiking=False)),
    )
    x = torch.randn(4, 2, 8)
    for neuron in kinds:
        torch.manual_seed(0)
        y = sl.Network(neuron, spikes="packed")(x)
        torch.manual_seed(0)
        assert type(y) is torch.Tensor, neuron
        assert torch.equal(y, sl.Network(neuron)(x))
    with pytest.raises(ValueError, match="LI: its output is not 0 or 1"):
        kinds[0].packed = True
    with pytest.raises(ValueError, match="spikes must be dense or packed, got 'bits'"):
        sl.Network(sl.LIF(), spikes="bits")


class Doubled(sl.Neuron):
    def __init__(self):
        super().__init__()
        self.numbers(gain=2.0)
        self.states(v=0.0)

    def dynamics(self, x, v):
        v = v + x
        return self.gain * self.fire(v - 1.0), v


@pytest.mark.parametrize("N", [7, 8])  # whole bytes are written by the kernel, others packed after it
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_neuron_that_is_not_binary_and_does_not_say_so(N, backend):
    net = sl.Network(Doubled(), spikes="packed")
    with sl.backend(backend), pytest.raises(ValueError, match=r"neither 0 nor 1"):
        net(torch.ones(3, 2, N))
    Doubled.is_binary = False
    try:
        assert type(net(torch.ones(3, 2, N))) is torch.Tensor
    finally:
        del Doubled.is_binary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 8), (3, 5), (2, 4, 6, 6), (1, 2056), (2, 3, 5, 7)])
def test_kernels_write_the_bits_that_packing_gives(dtype, shape):
    x = (0.5 + torch.randn(19, *shape)).to(dtype)
    inputs = [x]
    if len(shape) == 4:
        inputs.append(x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2]))
    for x in inputs:
        for neuron in (sl.LIF(v_threshold=0.4), sl.Synaptic(alpha=0.6, beta=0.7, v_threshold=0.8)):
            neuron = neuron.double() if dtype == torch.float64 else neuron
            wanted = neuron.sequence(x)[0]
            neuron.packed = True
            for lengths in (None, torch.arange(shape[0]) + 3):
                y, _ = neuron.sequence(x, lengths=lengths)
                assert isinstance(y, sl.SpikeTensor)
                assert y.dtype == dtype
                assert y.stride() == wanted.stride()
                valid = (
                    wanted
                    if lengths is None
                    else wanted * (torch.arange(19).view(19, 1) < lengths).view(19, shape[0], *(1,) * (len(shape) - 1))
                )
                assert torch.equal(y.unpack(), valid)
                assert torch.equal(y.bits, sl.pack(valid).bits)


def test_gradients_through_kernels_that_write_bits():
    found = []
    for spikes in ("dense", "packed"):
        torch.manual_seed(0)
        net = sl.Network(
            nn.BatchNorm1d(16), sl.LIF(v_threshold=0.3), nn.Linear(16, 3, bias=False), spikes=spikes
        ).double()
        x = torch.randn(20, 4, 16, dtype=torch.float64).requires_grad_()
        y = net(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)

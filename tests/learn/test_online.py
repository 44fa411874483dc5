"""Gradients in pieces against backpropagation through all steps, with twins that must differ."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import spikeloom as sl

L = sl.learn
T, B = 13, 3


def gradients(net, x, loss, **options):
    net.zero_grad()
    pieces = list(L.online(net, x, loss, **options))
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in net.parameters()], pieces


def whole(net, x, loss, **options):
    net.zero_grad()
    loss(net(x, **options), 0).backward()
    return [p.grad.clone() for p in net.parameters()]


def squares(target):
    return lambda y, t0: (y - target[t0 : t0 + len(y)]).square().sum()


def closeness(a, b):
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def given(*shape):
    return torch.randn(T, B, *shape, dtype=torch.float64)


def net_of(neuron, features=5):
    net = sl.Network(nn.Linear(4, features), neuron, nn.Linear(features, 2)).double()
    with torch.no_grad():
        net.body[0].weight *= 2
    return net


def test_pieces_of_all_steps_are_backpropagation_and_of_one_are_sltt():
    x, target = given(4), given(2)
    net = net_of(sl.LIF(tau=3.0))
    loss = squares(target)
    assert closeness(gradients(net, x, loss, steps=T)[0], whole(net, x, loss)) < 1e-14
    sltt = net_of(sl.options.SLTT(sl.LIF(tau=3.0)))
    for a, b in zip(sltt.parameters(), net.parameters(), strict=True):
        a.data = b.data
    one, pieces = gradients(net, x, loss, steps=1)
    assert closeness(one, whole(sltt, x, loss)) < 1e-12
    assert closeness(one, whole(net, x, loss)) > 1e-2  # which keeps what truncation loses
    torch.testing.assert_close(torch.cat([p.output for p in pieces]), net(x).detach())
    assert [p.start for p in pieces] == list(range(T))
    assert sum(p.loss for p in pieces).item() == pytest.approx(loss(net(x), 0).item())
    assert not any(t.requires_grad for p in pieces for t in (p.loss, p.output, p.state["1"]["v"]))


NEURONS = {
    "LIF": lambda: sl.LIF(tau=3.0),
    "LIF, soft reset": lambda: sl.LIF(tau=3.0, reset="soft"),
    "ALIF": lambda: sl.options.Adaptive(sl.LIF(tau=3.0), beta=0.4),
    "Synaptic": lambda: sl.Synaptic(alpha=0.7, beta=0.8),
    "Izhikevich": lambda: sl.Izhikevich(),
    "per channel": lambda: sl.LIF(tau=torch.linspace(2.0, 5.0, 5), reset="soft", detach_reset=True),
}


MORE = {"CLIF": lambda: sl.CLIF(tau=3.0), "AdEx": lambda: sl.AdEx(), "KLIF": lambda: sl.KLIF(k=1.2)}


@pytest.mark.parametrize("name", [*NEURONS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_an_eligibility_makes_pieces_equal_to_backpropagation_for_a_layer_of_neurons(name):
    x, target = given(4), given(2)
    net, loss = net_of({**NEURONS, **MORE}[name]()), squares(target)
    wanted = whole(net, x, loss)
    assert wanted[0].abs().max() > 1e-6
    for steps in (1, 4, 5):
        assert closeness(gradients(net, x, loss, steps=steps, method="eligibility")[0], wanted) < 1e-12
    assert closeness(gradients(net, x, loss, steps=4)[0], wanted) > 1e-4  # without it


TRACES = {
    "LIF": lambda: sl.LIF(tau=3.0, reset="soft", detach_reset=True),
    "LI": lambda: sl.LI(tau=3.0),
    "Synaptic": lambda: sl.Synaptic(alpha=0.7, beta=0.8, reset_delay=False, detach_reset=True),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_leak_alone_needs_a_trace_of_the_input_and_serves_convolutions(name):
    x, target = given(2, 4, 5), given(2)
    layer = nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2)
    net = sl.Network(layer, TRACES[name](), nn.Flatten(), nn.Linear(4 * 2 * 3, 2)).double()
    loss = squares(target)
    wanted = whole(net, x, loss)
    for steps in (1, 4):
        assert closeness(gradients(net, x, loss, steps=steps, method="eligibility")[0], wanted) < 1e-12
    assert closeness(gradients(net, x, loss, steps=4)[0], wanted) > 1e-4
    linear, one = net_of(TRACES[name]()), given(4)
    got, _ = gradients(linear, one, loss, steps=4, method="eligibility", limit=0)  # nothing of [B, N, M]
    assert closeness(got, whole(linear, one, loss)) < 1e-12


def test_places_of_a_linear_layer_and_a_loss_of_the_last_piece_alone():
    x, target = given(3, 4), given(3, 2)
    net = net_of(sl.LIF(tau=3.0))

    def last(y, t0):
        return squares(target)(y, t0) if t0 + len(y) == T else y.detach().sum() * 0

    got, _ = gradients(net, x, last, steps=5, method="eligibility")
    net.zero_grad()
    (net(x)[10:] - target[10:]).square().sum().backward()
    assert closeness(got, [p.grad for p in net.parameters()]) < 1e-12


def test_of_two_layers_the_last_is_exact_and_the_first_is_closer_than_truncated():
    x, target = given(6), given(2)
    torch.manual_seed(3)
    lif = lambda: sl.LIF(tau=4.0, reset="soft", v_threshold=0.5)  # noqa: E731
    net = sl.Network(nn.Linear(6, 20), lif(), nn.Linear(20, 20), lif(), nn.Linear(20, 2)).double()
    loss = squares(target)
    wanted = whole(net, x, loss)
    ours, _ = gradients(net, x, loss, steps=2, method="eligibility")
    cut, _ = gradients(net, x, loss, steps=2)
    assert closeness(ours[2:], wanted[2:]) < 1e-12
    cosine = lambda a: float(nn.functional.cosine_similarity(a[0].flatten(), wanted[0].flatten(), dim=0))  # noqa: E731
    assert 1 - 1e-6 > cosine(ours) > cosine(cut)


@pytest.mark.parametrize("method", ["truncated", "eligibility"])
@pytest.mark.parametrize("detached", [False, True])
def test_ragged_batches_are_their_samples_alone(method, detached):
    lengths, x, target = torch.tensor([4, 8, 6]), given(4), given(2)  # nobody has all 13 steps
    net = net_of(sl.LIF(tau=3.0, reset="soft", detach_reset=detached))

    def loss_of(target, lengths):
        def loss(y, t0):
            there = torch.arange(t0, t0 + len(y)).view(-1, 1) < lengths
            return ((y - target[t0 : t0 + len(y)]).square().sum(-1) * there).sum()

        return loss

    got, pieces = gradients(net, x, loss_of(target, lengths), steps=4, method=method, lengths=lengths)
    total = [torch.zeros_like(g) for g in got]
    for b, n in enumerate(lengths.tolist()):
        one = slice(n), slice(b, b + 1)
        loss = loss_of(target[one], torch.tensor([n]))
        alone, parts = gradients(net, x[one], loss, steps=4, method=method)
        total = [a + g for a, g in zip(total, alone, strict=True)]
        torch.testing.assert_close(pieces[-1].state["1"]["v"][b : b + 1], parts[-1].state["1"]["v"])
        torch.testing.assert_close(torch.cat([p.output for p in pieces])[one], torch.cat([p.output for p in parts]))
    assert [p.start for p in pieces] == [0, 4]
    assert closeness(got, total) < 1e-12
    if method == "eligibility":
        net.zero_grad()
        loss_of(target, lengths)(net(x, lengths=lengths), 0).backward()
        assert closeness(got, [p.grad for p in net.parameters()]) < 1e-12


def test_packed_spikes_batch_first_still_inputs_and_a_state_to_begin_with():
    x, target = given(4), given(2)
    net = sl.Network(nn.Linear(4, 5), sl.LIF(tau=3.0), nn.Linear(5, 6), sl.LIF(tau=3.0), nn.Linear(6, 2)).double()
    loss = squares(target)
    wanted, _ = gradients(net, x, loss, steps=4, method="eligibility")
    net.spikes = "packed"
    assert closeness(gradients(net, x, loss, steps=4, method="eligibility")[0], wanted) < 1e-12
    net.spikes, net.batch_first = "dense", True
    assert closeness(gradients(net, x.transpose(0, 1), loss, steps=4, method="eligibility")[0], wanted) < 1e-12
    net.batch_first = False
    still = x[0]
    wanted = whole(net, still, loss, repeat=T)
    assert closeness(gradients(net, still, loss, steps=T, repeat=T)[0], wanted) < 1e-12
    one = net_of(sl.LIF(tau=3.0, v_threshold=0.3))
    wanted = whole(one, still, loss, repeat=T)
    assert closeness(gradients(one, still, loss, steps=4, repeat=T, method="eligibility")[0], wanted) < 1e-12

    _, result = net(x[:5], return_state=True)
    net.zero_grad()
    later = squares(target[5:])
    later(net(x[5:], state=sl.detach(result.state)), 0).backward()
    wanted = [p.grad.clone() for p in net.parameters()]
    assert closeness(gradients(net, x[5:], later, steps=T, state=result.state)[0], wanted) < 1e-12


def test_ottt_in_pieces_of_one_step():
    x, target = given(4), given(2)

    def make(around):
        torch.manual_seed(0)
        layers = nn.Linear(4, 5), around(sl.LIF(tau=2.0)), sl.nn.OTTT(nn.Linear(5, 2)), around(sl.LIF(tau=2.0))
        return sl.Network(*layers).double()

    loss = squares(target)
    online, _ = gradients(make(lambda neuron: neuron), x, loss, steps=1)
    assert closeness(online, whole(make(sl.options.SLTT), x, loss)) < 1e-12


def test_of_a_number_of_pieces_some_are_differentiated():
    x, target, net = given(4), given(2), net_of(sl.LIF(tau=3.0))
    loss = squares(target)
    some, pieces = gradients(net, x, loss, steps=1, backward=4, generator=torch.Generator().manual_seed(5))
    drawn = torch.randperm(T, generator=torch.Generator().manual_seed(5))[:4].tolist()
    wanted, _ = gradients(net, x, lambda y, t0: loss(y, t0) * (t0 in drawn), steps=1)
    assert closeness(some, wanted) < 1e-12
    assert len(pieces) == T
    for seed in range(5):  # of pieces that run, where the longest sample is shorter than T
        taken, options = [], {"lengths": torch.tensor([4, 6, 2]), "generator": torch.Generator().manual_seed(seed)}
        gradients(
            net,
            x,
            lambda y, t0, taken=taken: (taken.append(y.requires_grad), loss(y, t0))[1],
            steps=1,
            backward=4,
            **options,
        )
        assert (sum(taken), len(taken)) == (4, 6)


def test_pieces_that_run_in_one_call_have_the_gradients_of_pieces():
    torch.manual_seed(2)
    first, second = sl.options.Adaptive(sl.LIF(tau=3.0, v_threshold=0.3), beta=0.4), sl.PLIF(tau=3.0, v_threshold=0.2)
    inner = nn.Sequential(nn.Linear(6, 6), second)
    net = sl.Network(nn.Linear(4, 6), first, inner, nn.Linear(6, 2), sl.LI(tau=4.0), spikes="packed").double()
    x, target = 2 * given(4), given(2)
    loss = squares(target)
    assert net(x).abs().max() > 0
    wanted, pieces = gradients(net, x, loss, steps=3)
    got, blocks = gradients(net, x, loss, steps=3, block=2)
    assert closeness(got, wanted) < 1e-12
    assert closeness(gradients(net, x, loss, steps=6)[0], wanted) > 1e-3  # which goes back further
    assert [b.start for b in blocks] == [0, 6, 12]
    torch.testing.assert_close(torch.cat([b.output for b in blocks]), torch.cat([p.output for p in pieces]))
    torch.testing.assert_close(blocks[-1].state, pieces[-1].state)
    for options in ({"lengths": torch.tensor([5, 13, 8])}, {"state": pieces[2].state}):
        wanted, _ = gradients(net, x, loss, steps=4, **options)
        assert closeness(gradients(net, x, loss, steps=4, block=3, **options)[0], wanted) < 1e-12


class Memoryless(sl.Neuron):
    def __init__(self):
        super().__init__(reset="none")
        self.numbers(v_threshold=0.2)

    def dynamics(self, x):
        return self.fire(x - self.v_threshold)


def test_a_neuron_without_states_has_nothing_to_cut():
    net = sl.Network(nn.Linear(4, 5), Memoryless(), nn.Linear(5, 2), sl.LI(tau=3.0)).double()
    x, loss = given(4), squares(given(2))
    wanted, pieces = gradients(net, x, loss, steps=2)
    for options in ({}, {"state": pieces[3].state}):
        wanted, _ = gradients(net, x, loss, steps=2, **options)
        assert closeness(gradients(net, x, loss, steps=2, block=2, **options)[0], wanted) < 1e-12


def test_blocks_see_what_is_done_to_a_network_between_them():
    x, target, net = given(4), given(2), net_of(sl.LIF(tau=3.0))
    other, loss = sl.LIF(tau=2.0, v_threshold=0.2).double(), squares(target)

    def change(t0):
        if t0 == 6:
            net.body[1] = other
            net.body[0].weight.data.mul_(0.5)

    found = []
    for options in ({"steps": 2, "block": 3}, {"steps": 2}):
        torch.manual_seed(4)
        net = net_of(sl.LIF(tau=3.0))
        for piece in L.online(net, x, loss, **options):
            change(piece.start + len(piece.output))
        found.append([p.grad for p in net.parameters()])
    assert closeness(*found) < 1e-12


def test_what_cannot_be_cut_inside_a_block_is_said():
    loss, x = squares(given(2)), given(4)
    recurrent = sl.Network(nn.Linear(4, 2), sl.nn.Recurrent(sl.LIF(), nn.Linear(2, 2))).double()
    with pytest.raises(ValueError, match=r"cannot be cut inside a block at '1' \(Recurrent\)"):
        next(L.online(recurrent, x, loss, steps=2, block=3))
    looked_at = net_of(sl.LIF())
    looked_at.body[1].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="something hooks into '1'"):
        next(L.online(looked_at, x, loss, steps=2, block=3))
    net = net_of(sl.LIF())
    with sl.taps(net, "1.output"), pytest.raises(ValueError, match=r"sl\.taps look on; give block=1"):
        next(L.online(net, x, loss, steps=2, block=3))
    body = L.DECOLLE([(nn.Sequential(nn.Linear(4, 3), sl.LIF()), 3)], classes=2)
    with pytest.raises(ValueError, match="the body is a DECOLLE"):
        next(L.online(sl.Network(body).double(), x, loss, steps=2, block=3))
    with pytest.raises(ValueError, match="block= goes with truncated alone"):
        L.online(net_of(sl.LIF()), x, loss, method="eligibility", block=2)
    with pytest.raises(ValueError, match="block must be a number of pieces of at least 1, got 0"):
        L.online(net_of(sl.LIF()), x, loss, block=0)


def saved_bytes(net, T, **options):
    """The most that the graph of one piece keeps."""
    sizes, seen = [0], []

    def pack(t):
        sizes[-1] += t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        for _ in L.online(net, torch.rand(T, B, 16), lambda y, t0: y.square().sum(), **options):
            seen.append(sizes[-1])
            sizes.append(0)
    return max(seen), max(seen[1:-1]) - min(seen[1:-1])


@pytest.mark.parametrize("method", ["truncated", "eligibility"])
def test_memory_does_not_grow_with_the_number_of_steps(method):
    net = sl.Network(nn.Linear(16, 32), sl.LIF(), nn.Linear(32, 32), sl.LIF(), nn.Linear(32, 2))
    short, differs = saved_bytes(net, 64, steps=8, method=method)
    long, _ = saved_bytes(net, 1024, steps=8, method=method)
    all_at_once, _ = saved_bytes(net, 64, steps=16, method="truncated")
    assert short == long > 0
    assert differs == 0
    assert all_at_once > 1.5 * saved_bytes(net, 64, steps=8)[0]  # what is counted does grow with the piece


def test_memory_of_blocks_does_not_grow_either():
    net = sl.Network(nn.Linear(16, 32), sl.LIF(), nn.Linear(32, 2))
    assert saved_bytes(net, 96, steps=4, block=4) == saved_bytes(net, 512, steps=4, block=4)


def test_eprop_is_backpropagation_with_the_feedback_detached():
    x, target = given(4), given(2)
    for neuron in (sl.LIF(tau=3.0, v_threshold=0.3), sl.options.Adaptive(sl.LIF(tau=3.0, v_threshold=0.3), beta=0.4)):
        torch.manual_seed(1)
        net = sl.Network(nn.Linear(4, 5), L.EProp(neuron, nn.Linear(5, 5)), nn.Linear(5, 2), sl.LI(tau=4.0)).double()
        loss = squares(target)
        wanted = by_hand(net, x, loss, detached=True)
        for steps in (1, 4, T):
            got, _ = gradients(net, x, loss, steps=steps, method="eligibility")
            exact = (
                got if steps == T else [g for g, p in zip(got, net.named_parameters(), strict=True) if "3" not in p[0]]
            )
            # the leaky readout has a state of its own, through which errors of earlier pieces come: exact for steps=T
            reference = wanted if steps == T else leaky_in_pieces(net, x, loss, steps)
            assert closeness(exact, reference) < 1e-12
        assert closeness(gradients(net, x, loss, steps=T)[0], by_hand(net, x, loss, detached=False)) > 1e-3


def test_full_influence_makes_pieces_of_a_recurrent_net_equal_to_backpropagation():
    x, target, lengths = given(4), given(2), torch.tensor([13, 4, 9])
    there = (torch.arange(T).view(-1, 1) < lengths).unsqueeze(-1)
    for neuron in (sl.LIF(tau=3.0, v_threshold=0.3), sl.options.Adaptive(sl.LIF(tau=3.0, v_threshold=0.3), beta=0.4)):
        torch.manual_seed(1)
        net = sl.Network(nn.Linear(4, 5), sl.nn.Recurrent(neuron, nn.Linear(5, 5)), nn.Linear(5, 2)).double()
        wanted = whole(net, x, squares(target))
        for steps in (1, 5):
            got, _ = gradients(net, x, squares(target), steps=steps, method="rtrl")
            assert closeness(got, wanted) < 1e-12
        assert closeness(gradients(net, x, squares(target), steps=5)[0], wanted) > 1e-3  # without it

        def ragged(y, t0):
            valid = there[t0 : t0 + len(y)]
            return ((y - target[t0 : t0 + len(y)]).square() * valid).sum()

        wanted = whole(net, x, ragged, lengths=lengths)
        got, _ = gradients(net, x, ragged, steps=3, method="rtrl", lengths=lengths)
        assert closeness(got, wanted) < 1e-12
    loss = squares(target)
    with pytest.raises(ValueError, match=r"'1' is a Recurrent, which is no neuron; method='rtrl' takes it"):
        next(L.online(net, x, loss, method="eligibility"))
    size = 3 * B * 5 * 5 * (4 + 5) * 8  # v, a and the output
    with pytest.raises(ValueError, match=f"on all states takes {size} bytes, and limit= is 100"):
        next(L.online(net, x, loss, method="rtrl", limit=100))


def test_outputs_filtered_by_a_leaky_readout_make_eprop_exact_in_any_pieces():
    x, target = given(4), given(2)
    li, synaptic = sl.LI(tau=4.0), sl.Synaptic(alpha=0.6, beta=0.8, reset="none")
    for second, leak in ((nn.Linear(5, 2), li), (L.RandomFeedback(5, 2), li), (nn.Linear(5, 2), synaptic)):
        torch.manual_seed(1)
        neuron = sl.options.Adaptive(sl.LIF(tau=3.0, v_threshold=0.3), beta=0.4)
        net = sl.Network(nn.Linear(4, 5), L.EProp(neuron, nn.Linear(5, 5)), second, leak).double()

        def loss(y, t0, record):
            return squares(target)(record["3.v"], t0)

        options = {"method": "eligibility", "record": ("3.v",)}
        wanted, _ = gradients(net, x, loss, steps=T, **options)
        if type(second) is nn.Linear and leak is li:
            assert closeness(wanted, by_hand(net, x, squares(target), detached=True)) < 1e-12
        for steps in (1, 4):
            got, _ = gradients(net, x, loss, steps=steps, leaky_readout=True, **options)
            assert closeness(got, wanted) < 1e-12
        assert closeness(gradients(net, x, loss, steps=4, **options)[0], wanted) > 1e-2  # without it


def test_a_leaky_readout_in_a_ragged_batch_of_packed_spikes_and_what_is_none():
    x, target, lengths = given(4), given(2), torch.tensor([13, 4, 9])
    there = (torch.arange(T).view(-1, 1) < lengths).unsqueeze(-1)
    net = sl.Network(nn.Linear(4, 5), sl.LIF(tau=3.0), nn.Linear(5, 2), sl.LI(tau=4.0), spikes="packed").double()
    with torch.no_grad():
        net.body[0].weight *= 2

    def loss(y, t0):
        return ((y - target[t0 : t0 + len(y)]).square() * there[t0 : t0 + len(y)]).sum()

    wanted = whole(net, x, loss, lengths=lengths)
    options = {"method": "eligibility", "steps": 3, "lengths": lengths}
    assert closeness(gradients(net, x, loss, leaky_readout=True, **options)[0], wanted) < 1e-12
    assert closeness(gradients(net, x, loss, **options)[0], wanted) > 1e-3
    body = list(net.body)
    with pytest.raises(ValueError, match="it ends in Linear, LIF, Linear"):
        list(L.online(sl.Network(*body[:3]), x, loss, leaky_readout=True, method="eligibility"))
    with pytest.raises(ValueError, match="'3' must have a leak alone"):
        list(L.online(sl.Network(*body[:3], sl.LIF()).double(), x, loss, leaky_readout=True, method="eligibility"))
    recurrent = sl.Network(body[0], sl.nn.Recurrent(sl.LIF(), nn.Linear(5, 5)), *body[2:]).double()
    with pytest.raises(ValueError, match=r"goes with neurons and sl\.learn\.EProp, not with '1'"):
        next(L.online(recurrent, x, loss, leaky_readout=True, method="rtrl"))
    with pytest.raises(ValueError, match="leaky_readout goes with eligibilities"):
        L.online(net, x, loss, leaky_readout=True)


def by_hand(net, x, loss, *, detached):
    """The recurrent net as a loop over steps."""
    first, layer, second, readout = net.body
    back, state, out = torch.zeros(B, 5, dtype=torch.float64), None, []
    net.zero_grad()
    with sl.backend("eager"):
        for x_t in x:
            back = back.detach() if detached else back
            back, state = layer.neuron.step(first(x_t) + layer.feedback(back), state=state)
            out.append(second(back))
        loss(readout.sequence(torch.stack(out))[0], 0).backward()
    return [p.grad.clone() for p in net.parameters()]


def leaky_in_pieces(net, x, loss, steps):
    """As by_hand, with the state of the readout detached between pieces, and the neurons' own not."""
    first, layer, second, readout = net.body
    back, state, leak, total = torch.zeros(B, 5, dtype=torch.float64), None, None, 0
    net.zero_grad()
    out = []
    with sl.backend("eager"):
        for x_t in x:
            back, state = layer.neuron.step(first(x_t) + layer.feedback(back.detach()), state=state)
            out.append(back)
        spikes = torch.stack(out)
        for t0 in range(0, T, steps):
            y, leak = readout.sequence(second(spikes[t0 : t0 + steps]), state=leak)
            total = total + loss(y, t0)
            leak = sl.detach(leak)
        total.backward()
    first_layers = [p.grad.clone() for p in (*first.parameters(), *layer.parameters())]
    net.zero_grad()  # the readout's own weights have an eligibility in its state
    loss(readout.sequence(second(spikes.detach()))[0], 0).backward()
    return [*first_layers, *(p.grad.clone() for p in second.parameters())]


def blocks_of(net, x, target):
    """The gradients of each block alone, given what the one before it fires."""
    found, body = [], net.body
    for block, readout, wanted in zip(body.blocks, body.readouts, target.unbind(2), strict=True):
        alone = sl.Network(block)
        s = alone(x)
        net.zero_grad()
        (readout(s) - wanted).square().sum().backward()
        found += [p.grad.clone() for p in block.parameters()]
        x = s.detach()
    return found


def test_decolle_is_backpropagation_of_each_block_alone():
    x, target = given(4), given(2, 3)
    blocks = [(nn.Sequential(nn.Linear(n, 6), sl.LIF(tau=3.0, v_threshold=0.3)), 6) for n in (4, 6)]
    net = sl.Network(L.DECOLLE(blocks, classes=3)).double()
    wanted, loss = blocks_of(net, x, target), squares(target)
    for steps in (1, 4):
        net.zero_grad()
        list(L.online(net, x, loss, steps=steps, method="eligibility"))
        assert closeness([p.grad for p in net.parameters() if p.requires_grad], wanted) < 1e-12
    assert all(p.grad is None for p in net.body.readouts.parameters())
    s = sl.Network(nn.Sequential(*net.body.blocks))(x)  # the error of the last block comes to the first
    net.zero_grad()
    (net.body.readouts[1](s) - target[:, :, 1]).square().sum().backward()
    assert closeness([net.body.blocks[0][0].weight.grad], wanted[:1]) > 1e-2


def test_activity_of_a_block_by_hand_and_in_pieces():
    u = torch.tensor([[[0.5, -0.2], [-0.02, -3.0]], [[-4.0, -5.0], [-4.0, -3.0]]], dtype=torch.float64)
    squashed = [[1 / (1 + math.exp(-v)) for v in row] for row in u.flatten(1).tolist()]
    wanted = 2.0 * 0.51 / 4 + 0.0 + 3.0 * (0.1 - sum(squashed[1]) / 4)  # the first step is active enough
    assert sum(squashed[0]) / 4 > 0.1
    assert L.decolle_activity(u, high=2.0, low=3.0).item() == pytest.approx(wanted)
    with pytest.raises(ValueError, match=r"expected u \[K, B, \*\], got \[2, 2\]"):
        L.decolle_activity(u[0])

    x, target = given(4), given(1, 3)
    block = nn.Sequential(nn.Linear(4, 6), sl.LIF(tau=3.0, v_threshold=0.3))
    net = sl.Network(L.DECOLLE([(block, 6)], classes=3)).double()
    name = "blocks.0.1.u"

    def loss(y, t0, record):
        return squares(target)(y, t0) + L.decolle_activity(record[name], high=5.0, low=7.0)

    y, result = net(x, record=(name,))
    loss(y, 0, result.record).backward()
    wanted = [p.grad.clone() for p in block.parameters()]
    for lengths in (None, torch.full((B,), T)):
        net.zero_grad()
        list(L.online(net, x, loss, steps=4, method="eligibility", record=(name,), lengths=lengths))
        assert closeness([p.grad for p in block.parameters()], wanted) < 1e-12
    net.zero_grad()
    list(L.online(net, x, lambda y, t0: squares(target)(y, t0), steps=4, method="eligibility"))
    assert closeness([p.grad for p in block.parameters()], wanted) > 1e-3


def test_what_is_recorded_in_blocks_is_what_is_recorded_in_pieces():
    x, net, found = given(4), net_of(sl.LIF(tau=3.0)), []
    for options in ({"steps": 2}, {"steps": 2, "block": 3}):
        seen = []

        def loss(y, t0, record, seen=seen):
            seen.append(record["1.v"].detach())
            return record["1.v"].square().sum() + y.square().sum()

        found.append(gradients(net, x, loss, record=("1.v",), **options)[0])
        found.append([torch.cat(seen)])
    assert closeness(found[0], found[2]) < 1e-12
    assert torch.equal(*found[1], *found[3])


def test_errors_come_back_through_random_weights():
    layer = L.RandomFeedback(4, 2).double()
    x, g = given(4).requires_grad_(), given(2)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(x, layer.weight, layer.bias))
    (y * g).sum().backward()
    torch.testing.assert_close(x.grad, g @ layer.feedback)
    torch.testing.assert_close(layer.weight.grad, torch.einsum("tbn,tbm->nm", g, x.detach()))
    assert not torch.equal(layer.feedback, layer.weight)
    assert "feedback" in layer.state_dict()


def test_feedback_that_adapts_has_the_gradient_of_the_weights_and_goes_to_them():
    x, target = given(4), given(2)
    layer = L.RandomFeedback(5, 2, adaptive=True)
    recurrent = L.EProp(sl.options.Adaptive(sl.LIF(tau=3.0, v_threshold=0.3), beta=0.4), nn.Linear(5, 5))
    net = sl.Network(nn.Linear(4, 5), recurrent, layer, sl.LI(tau=4.0)).double()
    with torch.no_grad():
        net.body[0].weight *= 2
    loss = squares(target)
    for options in ({"steps": T}, {"steps": 3, "method": "eligibility"}):
        gradients(net, x, loss, **options)
        assert layer.weight.grad.abs().max() > 0
        torch.testing.assert_close(layer.feedback.grad, layer.weight.grad)
    a, g = given(5).requires_grad_(), given(2)
    (layer(a) * g).sum().backward()
    torch.testing.assert_close(a.grad, g @ layer.feedback)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, weight_decay=50.0)
    apart = [(layer.feedback - layer.weight).norm().item()]
    for _ in range(10):
        gradients(net, x, loss, steps=3, method="eligibility")
        optimiser.step()
        apart.append((layer.feedback - layer.weight).norm().item())
    assert apart[-1] == pytest.approx(apart[0] * 0.95**10)  # their gradients are one, so that the decay alone is left
    assert "adaptive=True" in repr(layer)


def test_random_feedback_stands_before_a_leaky_readout_and_before_neurons():
    x, target = given(4), given(2)
    for readout in (sl.LI(tau=3.0), sl.LIF(tau=3.0, v_threshold=0.4)):
        net = sl.Network(
            nn.Linear(4, 5), L.EProp(sl.LIF(v_threshold=0.3), nn.Linear(5, 5)), L.RandomFeedback(5, 2), readout
        ).double()
        found = gradients(net, x, squares(target), steps=2, method="eligibility")[0]
        wanted = whole(net, x, squares(target))
        assert closeness(found[-2:], wanted[-2:]) < 1e-12
        assert closeness(gradients(net, x, squares(target), steps=2)[0][-2:], wanted[-2:]) > 1e-3


def test_fptt_passes_frozen_parameters_over():
    net = sl.Network(nn.Linear(4, 2), sl.LI(tau=3.0)).double()
    net.body[0].bias.requires_grad_(False)
    before = [p.clone() for p in net.parameters()]
    fptt = L.FPTT(net.parameters())
    list(fptt.pieces(net, given(4), squares(given(2)), torch.optim.SGD(net.parameters(), lr=0.01), steps=5))
    assert [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)] == [False, True]
    assert torch.equal(fptt.gradients[1], torch.zeros(2, dtype=torch.float64))


def test_gradients_are_taken_where_none_are_recorded():
    x, target = given(4), given(2)
    net = net_of(sl.LIF(tau=3.0))
    for method in ("truncated", "eligibility"):
        wanted = gradients(net, x, squares(target), steps=5, method=method)[0]
        with torch.no_grad():
            found = gradients(net, x, squares(target), steps=5, method=method)[0]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert found[0].any()
    fptt, before = L.FPTT(net.parameters()), net.body[0].weight.clone()
    with torch.no_grad():
        list(fptt.pieces(net, x, squares(target), torch.optim.SGD(net.parameters(), lr=0.01), steps=5))
    assert not torch.equal(net.body[0].weight, before)
    encoded = nn.Linear(4, 4).double()(x)
    with pytest.raises(ValueError, match=r"x comes out of a computation with gradient.*give x\.detach\(\)"):
        L.online(net, encoded, squares(target), steps=5)
    assert len(list(L.online(net, encoded, squares(target), steps=T))) == 1
    for options in ({}, {"block": 2}, {"method": "eligibility"}):
        with torch.inference_mode(), pytest.raises(RuntimeError, match=r"no gradients in torch\.inference_mode"):
            next(L.online(net_of(sl.LIF()), given(4), squares(given(2)), steps=2, **options))


def test_fptt_takes_the_layout_of_the_network():
    x, target, found = given(4), given(2), []
    for batch_first in (False, True):
        torch.manual_seed(0)
        net = sl.Network(nn.Linear(4, 2), sl.LI(tau=3.0), batch_first=batch_first).double()
        optimiser, fptt = torch.optim.SGD(net.parameters(), lr=0.01), L.FPTT(net.parameters())
        pieces = fptt.pieces(net, x.transpose(0, 1) if batch_first else x, squares(target), optimiser, steps=5)
        found.append((torch.cat([piece.output for piece in pieces]), net.body[0].weight))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_fptt_is_its_equations_over_a_linear_net(alpha):
    x, target = given(4), given(2)
    net = sl.Network(nn.Linear(4, 2), sl.LI(tau=3.0)).double()
    optimiser, fptt = torch.optim.SGD(net.parameters(), lr=0.02), L.FPTT(net.parameters(), alpha=alpha)
    W = torch.cat([net.body[0].weight, net.body[0].bias.unsqueeze(1)], 1).detach().clone()
    one = torch.cat([x, torch.ones(T, B, 1, dtype=torch.float64)], 2)
    mean, last, v = W.clone(), torch.zeros_like(W), torch.zeros(B, 2, dtype=torch.float64)

    def slope(W, v, t):  # of |v' - target|^2 with v' = v + (x W - v) / 3
        return 2 / 3 * (v + (one[t] @ W.t() - v) / 3 - target[t]).t() @ one[t]

    for piece in fptt.pieces(net, x, squares(target), optimiser):
        t = piece.start
        new = W - 0.02 * (slope(W, v, t) + alpha * (W - mean - last / (2 * alpha)))
        last = slope(new, v, t)
        mean = (mean + new) / 2 - last / (2 * alpha)
        v, W = v + (one[t] @ W.t() - v) / 3, new
        torch.testing.assert_close(net.body[0].weight.data, W[:, :4], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(net.body[0].bias.data, W[:, 4], atol=1e-12, rtol=1e-12)
    again = L.FPTT(net.parameters())
    again.load_state_dict(fptt.state_dict())
    assert again.alpha == alpha
    torch.testing.assert_close(again.means[0], mean[:, :4])
    torch.testing.assert_close(again.gradients[1], last[:, 4])
    with pytest.raises(ValueError, match="belong to parameters of other shapes"):
        L.FPTT(nn.Linear(3, 3).parameters()).load_state_dict(fptt.state_dict())


def pruned(layer):
    return prune.random_unstructured(layer, "weight", amount=0.5)


def hooked(layer):
    layer.register_forward_hook(lambda module, x, y: 2 * y)
    return layer


@pytest.mark.parametrize("method", ["eligibility", "rtrl"])
def test_what_changes_a_layer_from_outside_has_no_eligibility(method):
    recurrent = sl.nn.Recurrent if method == "rtrl" else L.EProp
    for change, reason in ((pruned, "is no parameter of its own"), (hooked, "something hooks into")):
        for changed in range(3 if change is hooked else 2):
            parts = [nn.Linear(4, 3), nn.Linear(3, 3), sl.LIF()]
            change(parts[changed])
            first, back, neuron = parts
            layers = [first, neuron] if changed == 2 else [first, recurrent(neuron, back)]
            net = sl.Network(*layers, nn.Linear(3, 2)).double()
            where = ("'0'", "'1.feedback'", "'1'")[changed]
            with pytest.raises(ValueError, match=reason) as raised:
                next(L.online(net, given(4), squares(given(2)), steps=2, method=method))
            assert where in str(raised.value)


def test_what_is_refused_is_named():
    loss, x = squares(given(2)), given(4)

    def run(*layers, x=x, **options):
        return list(L.online(sl.Network(*layers).double(), x, loss, **{"method": "eligibility", **options}))

    with pytest.raises(ValueError, match=r"before the neuron '2' .* there is '0' \(Linear\), '1' \(BatchNorm1d\)"):
        run(nn.Linear(4, 2), nn.BatchNorm1d(2), sl.LIF())
    with pytest.raises(ValueError, match="'1' is a Recurrent, which is no neuron"):
        run(nn.Linear(4, 2), sl.nn.Recurrent(sl.LIF(), nn.Linear(2, 2)))
    neuron = sl.LIF()
    with pytest.raises(ValueError, match="'1' is in the network more than once"):
        run(nn.Linear(4, 4), neuron, nn.Linear(4, 2), neuron)
    with pytest.raises(ValueError, match="eligibility takes 960 bytes, and limit= is 900"):
        run(nn.Linear(4, 10), sl.LIF(), nn.Linear(10, 2), limit=900)
    with pytest.raises(ValueError, match="the eligibility of Conv1d can be carried only where it is a trace"):
        run(nn.Conv1d(1, 2, 2), sl.LIF(), nn.Flatten(), nn.Linear(6, 2), x=given(1, 4))
    with pytest.raises(ValueError, match="the neurons of '1' depend on each other"):
        run(nn.Linear(4, 2), sl.options.MPBN(sl.LIF(), 2))
    with pytest.raises(ValueError, match="needs a network of layers in order"):
        run(nn.ModuleList([nn.Linear(4, 2)]))
    with pytest.raises(ValueError, match="steps must be a number of steps of at least 1, got 0"):
        run(nn.Linear(4, 2), steps=0)
    with pytest.raises(ValueError, match=r"backward= goes with truncated alone"):
        run(nn.Linear(4, 2), backward=2)
    with pytest.raises(ValueError, match="method must be truncated, eligibility or rtrl, got 'bptt'"):
        run(nn.Linear(4, 2), method="bptt")
    with pytest.raises(TypeError, match=r"takes an sl\.Network, got Linear"):
        L.online(nn.Linear(4, 2), x, loss)
    with pytest.raises(TypeError, match=r"loss\(y, t0\) must return a scalar tensor, got a tensor \[1, 3, 2\]"):
        list(L.online(sl.Network(nn.Linear(4, 2)).double(), x, lambda y, t0: y))
    with pytest.raises(TypeError, match="EProp: feedback must be an nn"):
        L.EProp(sl.LIF(), sl.nn.OneToOne(3))

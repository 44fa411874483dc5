"""Local rules against sums over single pairs of spikes, peers' golden files, and each other's limits."""

import copy
import dataclasses
import gc
import math
import weakref

import pytest
import torch
from torch import nn

import spikeloom as sl

L = sl.learn
DOUBLE = dict(dtype=torch.float64)


def column(*s):
    return torch.tensor(s, **DOUBLE).view(-1, 1, 1)


def clamp(w):
    return w.clamp(-1, 1)


def identity(w):
    return w


def spikes(*shape, rate=0.4, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).double()


def connections(layer, shape):
    """Of each weight the pairs (output, input) that it connects, found by turning weights on one after the other."""
    probe = copy.deepcopy(layer).double()
    probe.bias = None
    unit = torch.eye(math.prod(shape), **DOUBLE).reshape(-1, *shape)
    found = []
    with torch.no_grad():
        for i in range(layer.weight.numel()):
            probe.weight.zero_()
            probe.weight.view(-1)[i] = 1.0
            found.append(probe(unit).flatten(1).t().nonzero().tolist())
    return found


def traces(s, keep, nearest, own):
    """By definition: sums over earlier spikes, or the last of them."""
    out = []
    for t in range(len(s)):
        upto = [u for u in range(t + (1 if own else 0)) if s[u] > 0]
        upto = upto[-1:] if nearest else upto
        out.append(sum(keep ** (t - u) for u in upto))
    return out


def brute(layer, pre, post, keep_pre, keep_post, *, near=(False, False), own=(True, True), up=1.0, down=1.0):
    """Pair by pair: for each sample, weight and pair of neurons that it connects."""
    B = pre.shape[1]
    dw = torch.zeros(layer.weight.numel(), **DOUBLE)
    pairs = connections(layer, pre.shape[2:])
    for b in range(B):
        x, y = pre[:, b].flatten(1), post[:, b].flatten(1)
        tx = torch.tensor([traces(s, keep_pre, near[0], own[0]) for s in x.t().tolist()], **DOUBLE).t()
        ty = torch.tensor([traces(s, keep_post, near[1], own[1]) for s in y.t().tolist()], **DOUBLE).t()
        for w, connected in enumerate(pairs):
            for o, i in connected:
                dw[w] += (up * tx[:, i] * y[:, o] - down * x[:, i] * ty[:, o]).sum()
    return dw.reshape(layer.weight.shape)


LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), (4,), (3,)),
    "linear with places": (lambda: nn.Linear(3, 2), (2, 3), (2, 2)),
    "sparse": (lambda: sl.nn.SparseLinear(6, 4, fan_in=2), (6,), (4,)),
    "conv1d, groups": (lambda: nn.Conv1d(4, 2, 3, padding=1, groups=2), (4, 4), (2, 4)),
    "conv2d": (lambda: nn.Conv2d(2, 2, (2, 3), stride=(1, 2), padding=1, dilation=(1, 2)), (2, 3, 5), (2, 4, 2)),
    "conv2d, reflected": (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), (1, 3, 3), (2, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 2, 3, 2), (2, 1, 2, 1)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 2, 2, stride=2, groups=2), (2, 2, 2), (2, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_linear_layer_against_single_pairs(name):
    make, before, after = LAYERS[name]
    layer = make().double()
    pre, post = spikes(6, 2, *before), spikes(6, 2, *after, seed=1)
    got, _ = L.STDP(tau_pre=3.0, tau_post=5.0, a_post=0.7).sequence(layer, pre, post)
    if "reflected" in name:  # where one input meets a weight twice, pairs count twice
        seen = brute_reflected(layer, pre, post)
    else:
        seen = brute(layer, pre, post, 1 - 1 / 3, 1 - 1 / 5, up=0.7)
    torch.testing.assert_close(got, seen, atol=1e-12, rtol=1e-12)


def brute_reflected(layer, pre, post):
    padded = nn.functional.pad(pre.flatten(0, 1), (1, 1, 1, 1), mode="reflect").unflatten(0, pre.shape[:2])
    plain = nn.Conv2d(1, 2, 3)
    return brute(plain, padded, post, 1 - 1 / 3, 1 - 1 / 5, up=0.7)


@pytest.mark.parametrize("decay", ["euler", "exponential"])
@pytest.mark.parametrize("pairing", ["all", "nearest", ("all", "nearest")])
@pytest.mark.parametrize("coincident", ["cancel", "potentiate", "depress", "ignore"])
def test_pairings_and_coincident_spikes_against_single_pairs(decay, pairing, coincident):
    layer = nn.Linear(3, 2).double()
    pre, post = spikes(10, 2, 3, rate=0.5), spikes(10, 2, 2, rate=0.5, seed=1)
    rule = L.STDP(tau_pre=3.0, tau_post=2.0, pairing=pairing, decay=decay, coincident=coincident)
    keep = [1 - 1 / tau if decay == "euler" else math.exp(-1 / tau) for tau in (3.0, 2.0)]
    near = tuple(p == "nearest" for p in (pairing if isinstance(pairing, tuple) else (pairing, pairing)))
    own = {"cancel": (True, True), "potentiate": (True, False), "depress": (False, True), "ignore": (False, False)}
    wanted = brute(layer, pre, post, *keep, near=near, own=own[coincident])
    torch.testing.assert_close(rule.sequence(layer, pre, post)[0], wanted, atol=1e-12, rtol=1e-12)


def test_one_pair_by_hand():
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 0.4)
    rule = L.STDP(tau_pre=2.0, tau_post=2.0, f_pre=clamp, f_post=clamp)
    assert rule.sequence(layer, column(1, 0), column(0, 1))[0].item() == pytest.approx(0.2)
    assert rule.sequence(layer, column(0, 1), column(1, 0))[0].item() == pytest.approx(-0.2)
    assert rule.sequence(layer, column(1), column(1))[0].item() == 0.0
    bounded = L.STDP(tau_pre=2.0, tau_post=2.0, f_pre=L.soft_bound(0.0, 1.0)[0], f_post=L.soft_bound(0.0, 1.0)[1])
    assert bounded.sequence(layer, column(1, 0), column(0, 1))[0].item() == pytest.approx(0.6 * 0.5)
    hard_low, hard_high = L.soft_bound(0.0, 0.4, power=0.0)
    assert (hard_low(layer.weight).item(), hard_high(layer.weight).item()) == (1.0, 0.0)


def paired(pre, post, keep_pre, keep_post, *, reduced, own):
    """Potentiation and depression of one synapse by definition: which spikes are paired, and how far they are apart."""
    first, second = ([t for t, s in enumerate(side) if s > 0] for side in (pre, post))
    up = down = 0.0
    for p in second:  # with those before the layer since the last spike after it
        last = max([q for q in second if q < p], default=-1)
        met = [s for s in first if (last < s <= p if own[0] else last <= s < p)]
        up += sum(keep_pre ** (p - s) for s in (met[-1:] if reduced else met))
    for s in first:  # with the last one after the layer, unless another spike before the layer has met it
        met = [p for p in second if (p <= s if own[1] else p < s)][-1:]
        last = max([q for q in first if q < s], default=-1)
        if reduced:
            met = [p for p in met if (last < p if own[1] else last <= p)]
        down += sum(keep_post ** (s - p) for p in met)
    return up, down


@pytest.mark.parametrize("coincident", ["cancel", "potentiate", "depress", "ignore"])
@pytest.mark.parametrize("pairing", ["presynaptic", "reduced"])
def test_pairings_with_a_memory_for_each_synapse(pairing, coincident):
    layer, lengths = nn.Linear(4, 3).double(), torch.tensor([20, 13])
    pre, post, r = spikes(20, 2, 4), spikes(20, 2, 3, seed=1), torch.randn(20, 2, **DOUBLE)
    w = layer.weight.detach()
    rule = L.STDP(
        tau_pre=3.0, tau_post=5.0, a_pre=0.7, a_post=1.3, f_post=lambda w: 1 - w, pairing=pairing, decay="exponential",
        coincident=coincident,
    )  # fmt: skip
    own = coincident in ("cancel", "potentiate"), coincident in ("cancel", "depress")
    wanted = torch.zeros(3, 4, **DOUBLE)
    for b, length in enumerate(lengths.tolist()):
        for n in range(3):
            for m in range(4):
                sides = pre[:length, b, m].tolist(), post[:length, b, n].tolist()
                up, down = paired(*sides, math.exp(-1 / 3), math.exp(-1 / 5), reduced=pairing == "reduced", own=own)
                wanted[n, m] += 1.3 * (1 - w[n, m]) * up - 0.7 * down
    dw, _ = rule.sequence(layer, pre, post, lengths=lengths)
    assert torch.equal(dw, rule.sequence(layer, pre, post, lengths=lengths.tolist())[0])
    torch.testing.assert_close(dw, wanted)
    assert not torch.allclose(dataclasses.replace(rule, pairing="nearest").sequence(layer, pre, post)[0], dw)
    whole, _ = rule.sequence(layer, pre, post, modulator=r)
    parts, state = torch.zeros_like(w), None
    for t in range(20):
        one, state = rule.step(layer, pre[t], post[t], state=state, modulator=r[t])
        parts += one
    torch.testing.assert_close(parts, whole)
    first, state = rule.sequence(layer, pre[:9], post[:9], lengths=torch.tensor([9, 6]))
    second, _ = rule.sequence(layer, pre[9:], post[9:], state=state, lengths=torch.tensor([11, 5]))
    joined = []
    for side in (pre, post):  # the second sample without the steps between its length and the end of the first part
        joined.append(torch.stack([side[:, 0], torch.cat([side[:6, 1], side[9:14, 1], side[:9, 1] * 0])], 1))
    torch.testing.assert_close(first + second, rule.sequence(layer, *joined)[0])


def test_what_pairings_with_a_memory_for_each_synapse_refuse():
    rule = L.STDP(pairing="reduced")
    with pytest.raises(TypeError, match=r"takes nn\.Linear, got Conv1d"):
        rule.sequence(nn.Conv1d(1, 1, 1), torch.zeros(2, 1, 1, 3), torch.zeros(2, 1, 1, 3))
    with pytest.raises(ValueError, match=r"the layer makes \[2, 1, 3\], but post is \[2, 1, 4\]"):
        rule.sequence(nn.Linear(2, 3), torch.zeros(2, 1, 2), torch.zeros(2, 1, 4))
    with pytest.raises(TypeError, match="has no eligibility that could be carried"):
        L.Modulated(rule, tau_e=2.0).step(nn.Linear(2, 3), torch.zeros(1, 2), torch.zeros(1, 3), modulator=1.0)
    dw, state = rule.sequence(nn.Linear(2, 3), torch.zeros(2, 1, 5, 2), torch.zeros(2, 1, 5, 3))
    assert not dw.any()
    assert state["pre"].shape == (1, 5, 3, 2)


@pytest.mark.parametrize("pairing", ["all", "nearest"])
def test_triplets_against_the_equations_over_single_spikes(pairing):
    layer = nn.Linear(2, 2).double()
    pre, post = spikes(9, 2, 2, rate=0.5), spikes(9, 2, 2, rate=0.5, seed=1)
    taus = dict(tau_plus=2.0, tau_x=5.0, tau_minus=3.0, tau_y=7.0)
    sizes = dict(a2_plus=0.5, a3_plus=0.8, a2_minus=0.6, a3_minus=0.3)
    got, _ = L.TripletSTDP(**taus, **sizes, pairing=pairing).sequence(layer, pre, post)
    wanted, near = torch.zeros(2, 2, **DOUBLE), pairing == "nearest"
    for b in range(2):
        for o in range(2):
            for i in range(2):
                x, y = pre[:, b, i].tolist(), post[:, b, o].tolist()
                r1, r2 = (traces(x, math.exp(-1 / taus[k]), near, own) for k, own in (("tau_plus", 1), ("tau_x", 0)))
                o1, o2 = (traces(y, math.exp(-1 / taus[k]), near, own) for k, own in (("tau_minus", 1), ("tau_y", 0)))
                for t in range(9):
                    wanted[o, i] += y[t] * r1[t] * (0.5 + 0.8 * o2[t]) - x[t] * o1[t] * (0.6 + 0.3 * r2[t])
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=1e-12)
    pairs = L.TripletSTDP(**taus, a2_plus=0.5, a3_plus=0.0, a2_minus=0.6, a3_minus=0.0)
    same = L.STDP(tau_pre=2.0, tau_post=3.0, a_post=0.5, a_pre=0.6, decay="exponential")
    torch.testing.assert_close(pairs.sequence(layer, pre, post)[0], same.sequence(layer, pre, post)[0])


@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d"])
def test_spikingjellys_stdp(golden, name):
    case = {k.removeprefix(f"{name}/"): v for k, v in golden("learning").items() if k.startswith(f"{name}/")}
    made = {
        "linear": nn.Linear(5, 4),
        "conv1d": nn.Conv1d(2, 3, 3, stride=2, padding=1),
        "conv2d": nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=1),
    }
    layer, taus = made[name], dict(tau_pre=2.0, tau_post=5.0) if name == "linear" else dict(tau_pre=3.0, tau_post=4.0)
    layer.weight.data = case["weight"]
    dw, _ = L.STDP(**taus, f_pre=identity, f_post=identity).sequence(layer, case["pre"], case["post"])
    close_to(dw, case["dw"])
    with pytest.raises(AssertionError):
        close_to(L.STDP(**taus).sequence(layer, case["pre"], case["post"])[0], case["dw"])  # without the weight


def close_to(a, b):
    assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.parametrize("name", ["mstdp", "mstdpet"])
def test_spikingjellys_rewards(golden, name):
    case = {k.removeprefix(f"{name}/"): v for k, v in golden("learning").items() if k.startswith(f"{name}/")}
    layer = nn.Linear(5, 4)
    layer.weight.data = case["weight"]
    if name == "mstdpet":
        case["pre"], case["post"] = case["pre"].unsqueeze(1), case["post"].unsqueeze(1)
    inner = L.STDP(tau_pre=2.0, tau_post=3.0, decay="exponential", f_pre=identity, f_post=identity)
    rule = L.Modulated(inner, tau_e=4.0 if name == "mstdpet" else None)
    dw, _ = rule.sequence(layer, case["pre"], case["post"], modulator=case["reward"])
    close_to(dw, case["dw"])
    twin, _ = inner.sequence(layer, case["pre"], case["post"], modulator=case["reward"])  # the reward of the same step
    with pytest.raises(AssertionError):
        close_to(twin, case["dw"])


def test_snngrows_tutorial(golden):
    case = {k.removeprefix("snngrow/"): v for k, v in golden("learning").items() if k.startswith("snngrow/")}
    layer, neuron = nn.Linear(4, 3, bias=False).double(), sl.IF()
    nn.init.constant_(layer.weight, 0.4)
    rule, state, membrane = L.STDP(tau_pre=2.0, tau_post=2.0, f_pre=clamp, f_post=clamp), None, None
    for x_t, post, weight in zip(case["pre"], case["post"], case["weights"], strict=True):
        with torch.no_grad():
            spike, membrane = neuron.step(layer(x_t), state=membrane)
        assert torch.equal(spike, post)
        dw, state = rule.step(layer, x_t, spike, state=state)
        L.apply(layer, dw, lr=0.01)
        torch.testing.assert_close(layer.weight.data, weight, atol=1e-12, rtol=1e-12)


def of_steps(layer, pre, post, rewards, tau_e):
    """MSTDP(ET) with an eligibility of every sample, step after step."""
    T, B = pre.shape[:2]
    keep = math.exp(-1 / 3.0)
    x, y = torch.zeros_like(pre[0]), torch.zeros_like(post[0])
    zeta = torch.zeros(B, *layer.weight.shape, **DOUBLE)
    E, dw = torch.zeros_like(zeta), torch.zeros_like(layer.weight)
    for t in range(T):
        E = zeta if tau_e is None else E * math.exp(-1 / tau_e) + zeta / tau_e
        dw = dw + torch.einsum("b,boi->oi", rewards[t], E)
        x, y = keep * x + pre[t], keep * y + post[t]
        zeta = torch.einsum("bo,bi->boi", post[t], x) - torch.einsum("bo,bi->boi", y, pre[t])
    return dw


@pytest.mark.parametrize("tau_e", [None, 4.0])
def test_rewards_of_samples_whole_in_parts_and_step_by_step(tau_e):
    layer = nn.Linear(4, 3).double()
    pre, post, rewards = spikes(11, 3, 4), spikes(11, 3, 3, seed=1), torch.randn(11, 3, **DOUBLE)
    rule = L.Modulated(L.STDP(tau_pre=3.0, tau_post=3.0, decay="exponential"), tau_e=tau_e)
    wanted = of_steps(layer, pre, post, rewards, tau_e)
    whole, state = rule.sequence(layer, pre, post, modulator=rewards)
    torch.testing.assert_close(whole, wanted, atol=1e-12, rtol=1e-12)
    assert "eligibility" not in state

    first, state = rule.sequence(layer, pre[:5], post[:5], modulator=rewards[:5], carry=True)
    second, _ = rule.sequence(layer, pre[5:], post[5:], modulator=rewards[5:], state=state)
    torch.testing.assert_close(first + second, wanted, atol=1e-12, rtol=1e-12)

    total, state = torch.zeros_like(wanted), None
    for t in range(11):
        dw, state = rule.step(layer, pre[t], post[t], modulator=rewards[t], state=state)
        total += dw
    torch.testing.assert_close(total, wanted, atol=1e-12, rtol=1e-12)


def test_an_eligibility_of_ragged_samples_waits_from_the_end_of_each():
    layer, lengths = nn.Linear(4, 3).double(), torch.tensor([4, 7])
    pre, post, rewards = spikes(7, 2, 4), spikes(7, 2, 3, seed=1), torch.randn(7, 2, **DOUBLE)
    rule = L.Modulated(L.STDP(tau_pre=3.0, tau_post=3.0, decay="exponential"), tau_e=4.0)
    dw, state = rule.sequence(layer, pre, post, modulator=rewards, lengths=lengths, carry=True)
    parts = []
    for b, n in enumerate(lengths.tolist()):
        one = (slice(n), slice(b, b + 1))
        parts.append(rule.sequence(layer, pre[one], post[one], modulator=rewards[one], carry=True))
    torch.testing.assert_close(dw, parts[0][0] + parts[1][0])
    torch.testing.assert_close(state["eligibility"], torch.cat([p[1]["eligibility"] for p in parts]))


RULES = {
    "STDP": L.STDP(tau_pre=3.0, tau_post=4.0),
    "nearest": L.STDP(pairing="nearest", f_post=lambda w: 1 - w),
    "TripletSTDP": L.TripletSTDP(a2_plus=0.3, a2_minus=0.2, a3_minus=0.1, a3_plus=0.2),
    "Hebb": L.Hebb(),
    "Oja": L.Oja(),
    "BCM": L.BCM(tau=5.0),
}


@pytest.mark.parametrize("name", RULES)
def test_parts_sum_to_the_whole_silence_changes_nothing_and_nothing_has_a_graph(name):
    rule, layer = RULES[name], nn.Linear(4, 3).double()
    pre, post = spikes(9, 2, 4).requires_grad_(), spikes(9, 2, 3, seed=1)
    whole, end = rule.sequence(layer, pre, post)
    assert whole.shape == layer.weight.shape
    assert not whole.requires_grad
    assert whole.abs().max() > 0
    first, state = rule.sequence(layer, pre[:4], post[:4])
    second, state = rule.sequence(layer, pre[4:], post[4:], state=state)
    torch.testing.assert_close(first + second, whole, atol=1e-12, rtol=1e-12)
    leaves, other = (torch.utils._pytree.tree_leaves(s) for s in (end, state))
    assert all(torch.allclose(a, b) and a.grad_fn is None for a, b in zip(leaves, other, strict=True))
    assert torch.equal(rule.sequence(layer, 0 * pre, 0 * post)[0], torch.zeros_like(whole))
    total, state = torch.zeros_like(whole), None
    for x_t, y_t in zip(pre, post, strict=True):
        dw, state = rule.step(layer, x_t, y_t, state=state)
        total += dw
    torch.testing.assert_close(total, whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_ragged_batches_and_packed_spikes(name):
    rule, layer, lengths = RULES[name], nn.Linear(4, 3), torch.tensor([5, 9])
    pre, post = spikes(9, 2, 4).float(), spikes(9, 2, 3, seed=1).float()
    ragged, state = rule.sequence(layer, pre, post, lengths=lengths)
    if name != "BCM":  # whose threshold all samples share
        alone = [rule.sequence(layer, pre[:n, b : b + 1], post[:n, b : b + 1]) for b, n in enumerate(lengths.tolist())]
        torch.testing.assert_close(ragged, alone[0][0] + alone[1][0])
        ends = [torch.utils._pytree.tree_leaves(s) for _, s in alone]
        for leaf, *each in zip(torch.utils._pytree.tree_leaves(state), *ends, strict=True):
            torch.testing.assert_close(leaf, torch.cat(each))
    padded = torch.arange(9).view(9, 1, 1) < lengths.view(1, 2, 1)
    garbage = [torch.where(padded, s, 1.0) for s in (pre, post)]
    assert torch.equal(rule.sequence(layer, *garbage, lengths=lengths)[0], ragged)
    packed, _ = rule.sequence(layer, sl.pack(pre), sl.pack(post))
    assert torch.equal(packed, rule.sequence(layer, pre, post)[0])


def test_weights_of_sixteen_bits():
    layer = nn.Linear(4, 3).bfloat16()
    pre, post = spikes(300, 2, 4).bfloat16(), spikes(300, 2, 3, seed=1).bfloat16()
    dw, _ = L.STDP().sequence(layer, pre, post)
    wanted, _ = L.STDP().sequence(nn.Linear(4, 3), pre.float(), post.float())
    assert dw.dtype == torch.bfloat16
    assert torch.equal(dw, wanted.bfloat16())  # sums over steps are not rounded


def test_autocast_does_not_round_changes():
    layer, pre, post = nn.Linear(4, 3), spikes(300, 2, 4).float(), spikes(300, 2, 3, seed=1).float()
    wanted, _ = L.STDP().sequence(layer, pre, post)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = L.STDP().sequence(layer, pre, post)
    assert torch.equal(got, wanted)


def test_oja_finds_the_first_principal_component_and_bcm_its_threshold():
    layer = nn.Linear(3, 1, bias=False).double()
    axis = torch.tensor([2.0, -1.0, 2.0], **DOUBLE) / 3
    x = torch.randn(400, 1, 3, **DOUBLE) * 0.3 + torch.randn(400, 1, 1, **DOUBLE) * 2 * axis
    nn.init.constant_(layer.weight, 0.1)
    for _ in range(60):
        with torch.no_grad():
            y = layer(x)
        L.apply(layer, L.Oja().sequence(layer, x, y)[0], lr=1e-4)
    first = torch.linalg.eigh(x.flatten(0, 1).t() @ x.flatten(0, 1))[1][:, -1]
    assert abs(layer.weight.data.norm().item() - 1) < 1e-3
    assert abs((layer.weight.data[0] @ first).item()) > 1 - 1e-3

    post, theta, dw = torch.rand(6, 2, 1, **DOUBLE), 0.0, 0.0
    pre = torch.rand(6, 2, 3, **DOUBLE)
    for t in range(6):
        dw = dw + (pre[t] * post[t] * (post[t] - theta)).sum(0)
        theta += (post[t].square().mean().item() - theta) / 5.0
    got, state = L.BCM(tau=5.0).sequence(layer, pre, post)
    torch.testing.assert_close(got[0], dw)
    assert state["theta"].item() == pytest.approx(theta)


def test_bcm_of_channels():
    layer, pre, post = nn.Conv1d(2, 3, 1).double(), torch.rand(4, 2, 2, 5, **DOUBLE), torch.rand(4, 2, 3, 5, **DOUBLE)
    got, state = L.BCM(tau=5.0).sequence(layer, pre, post)
    flat = nn.Linear(2, 3).double()
    places = [s.transpose(2, 3).flatten(1, 2) for s in (pre, post)]  # each place is a sample of a linear layer
    wanted, other = L.BCM(tau=5.0).sequence(flat, *places)
    torch.testing.assert_close(got.squeeze(2), wanted)
    torch.testing.assert_close(state["theta"], other["theta"])


def test_write_and_apply():
    layer, dw = nn.Linear(2, 2, bias=False).double(), torch.tensor([[1.0, -2.0], [0.0, 3.0]], **DOUBLE)
    nn.init.constant_(layer.weight, 0.5)
    L.write(layer, dw)
    L.write(layer, dw, scale=0.5)
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    torch.testing.assert_close(layer.weight.data, 0.5 + 0.15 * dw)
    nn.init.constant_(layer.weight, 0.5)
    L.apply(layer, dw, lr=0.1, low=0.4, high=0.7, norm=2.0)
    torch.testing.assert_close(
        layer.weight.data, torch.tensor([[1.2, 0.8], [1.0, 1.4]], **DOUBLE) / torch.tensor([[1.0], [1.2]], **DOUBLE)
    )
    assert layer.weight.requires_grad
    layer.weight.data.zero_()
    L.apply(layer, 0 * dw, lr=1.0, norm=3.0)
    assert torch.equal(layer.weight.data, 0 * dw)


def test_homeostasis_brings_each_neuron_to_its_rate():
    neuron = sl.options.Adaptive(sl.IF(v_threshold=1.0, reset="soft"), beta=0.0)
    x = torch.tensor([0.05, 0.3, 0.9]).expand(200, 2, 3)
    keeper = L.Homeostasis(neuron, rate=0.25, step=0.5, low=0.01)
    for _ in range(200):
        keeper.update(neuron.sequence(x)[0])
    torch.testing.assert_close(neuron.core().v_threshold, torch.tensor([0.2, 1.2, 3.6], **DOUBLE), rtol=0.05, atol=0.0)
    saved = sl.IF(v_threshold=nn.Parameter(torch.ones(3), requires_grad=False), reset="soft")
    L.Homeostasis(saved, rate=0.25, step=0.5).update(saved.sequence(x)[0])
    other = sl.IF(v_threshold=nn.Parameter(torch.ones(3), requires_grad=False), reset="soft")
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other.v_threshold, saved.v_threshold)
    assert saved.v_threshold[2] > 1 > saved.v_threshold[0]
    lengths = torch.tensor([1, 2])
    one = sl.IF()
    L.Homeostasis(one, rate=0.0, step=1.0).update(torch.ones(2, 2, 1, 4), lengths=lengths)
    assert one.v_threshold.tolist() == [2.0]


def test_nothing_is_left_of_a_network_that_has_learned():
    rule, alive = L.STDP(), []
    for _ in range(3):
        net = sl.Network(nn.Linear(4, 3), sl.LIF(v_threshold=0.1))
        _, result = net(torch.rand(6, 2, 4), record=("0.input", "1.output"))
        dw, _ = rule.sequence(net.body[0], result.record["0.input"], result.record["1.output"])
        L.write(net.body[0], dw)
        assert net.body[0].weight.grad.grad_fn is None
        alive.append(weakref.ref(net))
    del net, result
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


class Twice(nn.Linear):
    """Not linear in its weight."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.square(), self.bias)


def test_an_eligibility_of_other_samples_is_refused():
    rule, layer = sl.learn.Modulated(sl.learn.Hebb(), tau_e=3.0), nn.Linear(3, 2)
    one, four = (torch.ones(4, B, 3) for B in (1, 4))
    _, state = rule.sequence(layer, one, one[..., :2], modulator=torch.zeros(4), carry=True)
    with pytest.raises(ValueError, match="the eligibility of 1 samples, and there are 4"):
        rule.sequence(layer, four, four[..., :2], modulator=torch.ones(4), state=state)


def test_what_is_refused_is_named():
    x, y = torch.ones(2, 1, 3), torch.ones(2, 1, 2)
    with pytest.raises(TypeError, match=r"learn\.STDP: takes layers that are linear in their weight .* got Twice"):
        L.STDP().sequence(Twice(3, 2), x, y)
    with pytest.raises(TypeError, match="got WSLinear"):
        L.Hebb().sequence(sl.nn.WSLinear(3, 2), x, y)
    with pytest.raises(ValueError, match=r"the layer makes \[2, 1, 4\], but post is \[2, 1, 2\]"):
        L.STDP().sequence(nn.Linear(3, 4), x, y)
    with pytest.raises(ValueError, match=r"learn\.STDP: post: expected \[T, B, \*\]"):
        L.STDP().sequence(nn.Linear(3, 2), x, y[0])
    with pytest.raises(ValueError, match=r"modulator must be \[T\] = \[2\] or \[T, B\] = \[2, 1\], got \[3\]"):
        L.STDP().sequence(nn.Linear(3, 2), x, y, modulator=torch.ones(3))
    with pytest.raises(ValueError, match=r"tau_pre must be finite and at least 1 step, got 0\.5"):
        L.STDP(tau_pre=0.5)
    with pytest.raises(ValueError, match="pairing must be all, nearest or a pair"):
        L.STDP(pairing="none")
    with pytest.raises(TypeError, match=r"learn\.Oja: takes nn\.Linear, got Conv1d"):
        L.Oja().sequence(nn.Conv1d(1, 1, 1), torch.ones(2, 1, 1, 3), torch.ones(2, 1, 1, 3))
    with pytest.raises(TypeError, match=r"norm needs a weight with a row for each output"):
        L.apply(nn.ConvTranspose1d(1, 1, 1), torch.ones(1, 1, 1), lr=1.0, norm=1.0)
    with pytest.raises(ValueError, match=r"the weight is \[2, 3\], dw is \[3, 2\]"):
        L.write(nn.Linear(3, 2), torch.ones(3, 2))
    with pytest.raises(TypeError, match="LI has no v_threshold"):
        L.Homeostasis(sl.LI(), rate=0.1)
    with pytest.raises(TypeError, match="v_threshold is a parameter that an optimiser moves"):
        L.Homeostasis(sl.IF(v_threshold=nn.Parameter(torch.ones(3))), rate=0.1)
    with pytest.raises(TypeError, match="rule must be a local rule"):
        L.Modulated(L.Modulated(L.STDP()))

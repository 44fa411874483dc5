"""Makes the golden files beside it: outputs and gradients of the peers for random inputs.

Run it in an environment of its own, never in the project's:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 numpy scipy matplotlib tqdm h5py nir nirtorch loguru
    peers/bin/pip install --no-deps spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0
    peers/bin/python tests/reference/make_golden.py

Every case stores what the peer gave for the shared input x [T, B, N]: spikes, state after each step, and the
gradients of sum(gs * spikes) + sum(gv * states) with respect to x and to what the peer learns.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
T, B, N = 20, 3, 7


def shared():
    g = torch.Generator().manual_seed(20261120)
    x = 0.6 + torch.randn(T, B, N, generator=g, dtype=torch.float64)
    return x.float(), torch.randn(T, B, N, generator=g), torch.randn(T, B, N, generator=g)


def finish(store, name, x, spikes, states, learned=()):
    _, gs, gv = shared()
    loss = (gs * spikes).sum() + (gv * states).sum()
    grads = torch.autograd.grad(loss, [x, *learned])
    store[f"{name}/spikes"] = spikes.detach().numpy().astype(np.uint8)
    store[f"{name}/states"] = states.detach().numpy()
    store[f"{name}/grad_x"] = grads[0].numpy()
    for i, grad in enumerate(grads[1:]):
        store[f"{name}/grad_{i}"] = grad.numpy()
    rate = float(spikes.mean())
    print(f"{name}: {100 * rate:.0f} % spikes")


def save(peer, store):
    x, gs, gv = shared()
    store.update(x=x.numpy(), gs=gs.numpy(), gv=gv.numpy())
    np.savez_compressed(HERE / f"{peer}.npz", version=version(peer), torch=torch.__version__, **store)


def spikingjelly():
    from spikingjelly.activation_based import neuron, surrogate

    store = {}
    for v_reset, reset in ((0.0, "hard"), (-0.2, "hard_low"), (None, "soft")):
        for detach in (False, True):
            common = dict(v_reset=v_reset, detach_reset=detach, step_mode="m", store_v_seq=True)
            cases = {f"IF-{reset}-{detach}": (neuron.IFNode, {})}
            for decay in (True, False):
                cases[f"LIF-{decay}-{reset}-{detach}"] = (neuron.LIFNode, dict(tau=2.5, decay_input=decay))
                cases[f"PLIF-{decay}-{reset}-{detach}"] = (
                    neuron.ParametricLIFNode,
                    dict(init_tau=2.5, decay_input=decay),
                )
            for name, (cls, options) in cases.items():
                node = cls(v_threshold=0.8, surrogate_function=surrogate.ATan(alpha=2.0), **options, **common)
                x = shared()[0].requires_grad_()
                spikes = node(x)
                finish(store, name, x, spikes, node.v_seq, [node.w] if cls is neuron.ParametricLIFNode else [])
    common = dict(v_threshold=0.8, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m", store_v_seq=True)
    cases = {
        "QIF": neuron.QIFNode(tau=2.5, v_c=0.6, a0=0.7, v_rest=0.0, v_reset=-0.2, **common),
        "EIF": neuron.EIFNode(tau=2.5, delta_T=0.9, theta_rh=0.6, v_rest=0.0, v_reset=-0.2, **common),
        "Izhikevich": neuron.IzhikevichNode(
            tau=2.5, v_c=0.6, a0=0.7, v_rest=0.0, v_reset=-0.2, w_rest=0.0, tau_w=4.0, a=0.3, b=0.2, **common
        ),
        "KLIF": neuron.KLIFNode(scale_reset=False, tau=2.5, v_reset=-0.2, **common),
        "KLIF-scaled": neuron.KLIFNode(scale_reset=True, tau=2.5, v_reset=None, **common),
    }
    for name, node in cases.items():
        if name in ("QIF", "EIF", "Izhikevich"):
            node.v = 0.0  # begin at rest, not at v_reset
        if name.startswith("KLIF"):
            torch.nn.init.constant_(node.k, 1.3)
        x = shared()[0].requires_grad_()
        spikes = node(x)
        finish(store, name, x, spikes, node.v_seq, [node.k] if name.startswith("KLIF") else [])
    node = neuron.LIAFNode(torch.relu, True, tau=2.5, v_reset=-0.2, **common)
    x = shared()[0].requires_grad_()
    y = node(x)
    finish(store, "LIAF", x, y, node.v_seq)
    del store["LIAF/spikes"]  # its outputs are none
    store["LIAF/outputs"] = y.detach().numpy()
    node = neuron.ILIFNode(tau=4 / 3, v_threshold=0.8, step_mode="m", store_v_seq=True)
    x = shared()[0].requires_grad_()
    finish(store, "ILIF", x, node(x), node.v_seq)
    node = neuron.CUBALIFNode(
        c_decay=0.6, v_decay=0.7, v_threshold=0.8, v_reset=0.0, surrogate_function=surrogate.ATan(alpha=2.0)
    )
    x = shared()[0].requires_grad_()
    spikes, states = [], []
    for x_t in x:
        spikes.append(node(x_t))
        states.append(node.v)
    finish(store, "CUBALIF", x, torch.stack(spikes), torch.stack(states))
    wide = dict(surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m")
    nodes = {
        "ActivationAwareIF": neuron.ActivationAwareIFNode(
            v_threshold=torch.linspace(0.6, 1.2, N), v_offset=torch.linspace(0.3, -0.1, N), store_v_seq=True, **wide
        ),
        "HalfThresholdIF": neuron.HalfThresholdIFNode(v_threshold=0.8, store_v_seq=True, **wide),
    }
    for name, node in nodes.items():
        x = shared()[0].requires_grad_()
        finish(store, name, x, node(x), node.v_seq)
    tables = [
        neuron.FewSpikeTable([0.9, 0.5, 0.2], [0.8, 0.45, 0.3], [0.7, 0.6, 0.1]),
        neuron.FewSpikeTable([1.9, 1.1, 0.6], [1.7, 1.0, 0.5], [1.6, 1.2, 0.4]),
        neuron.FewSpikeTable([2.2, 1.0, 0.4], [2.0, 0.9, 0.6], [1.9, 0.8, 0.7]),
    ]
    nodes = {
        "FewSpike": neuron.FewSpikeNode(tables[0]),
        "FewSpike-outliers": neuron.OutlierAwareThresholdNode(tables[0], tables[1], 1.0, 1.8),
        "FewSpike-gates": neuron.HGNode(tables, [0.2, 1.4]),
    }
    for name, node in nodes.items():
        x = shared()[0].requires_grad_()
        y = torch.stack([node(x_t) for x_t in x])
        finish(store, name, x, y, torch.zeros_like(y))
        del store[f"{name}/spikes"]
        store[f"{name}/outputs"] = y.detach().numpy()
    np.random.seed(0)
    node = neuron.GatedLIFNode(T=T, inplane=N, surrogate_function=surrogate.Sigmoid(alpha=4.0))
    g = torch.Generator().manual_seed(5)
    names = ("alpha", "beta", "gamma", "tau", "v_threshold", "linear_decay", "v_subreset", "conduct")
    for key in names:
        parameter = getattr(node, key)
        parameter.data.add_(0.5 * torch.randn(parameter.shape, generator=g))
        store[f"GLIF/{key}"] = parameter.detach().numpy()
    x = shared()[0].requires_grad_()
    spikes = node(x.reshape(T, B, N, 1, 1)).reshape(T, B, N)
    finish(store, "GLIF", x, spikes, spikes, [getattr(node, key) for key in names])
    node = neuron.DSRIFNode(T=T, v_threshold=1.1, alpha=0.6)
    x = shared()[0].requires_grad_()
    y = node(x)
    finish(store, "DSRIF", x, y / 1.1, y, [node.v_threshold])
    parallel = {
        "PSN": neuron.PSN(T=T, surrogate_function=surrogate.ATan(alpha=2.0)),
        "MaskedPSN": neuron.MaskedPSN(
            k=3, T=T, lambda_init=0.7, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m"
        ),
        "SlidingPSN": neuron.SlidingPSN(k=3, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m"),
    }
    for name, node in parallel.items():
        g = torch.Generator().manual_seed(3)
        for parameter in node.parameters():
            parameter.data.copy_(0.4 * torch.randn(parameter.shape, generator=g) + (0.2 if name == "SlidingPSN" else 0))
        x = shared()[0].requires_grad_()
        spikes = node(x)
        finish(store, name, x, spikes, spikes, [node.weight, node.bias])
        store[f"{name}/weight"], store[f"{name}/bias"] = node.weight.detach().numpy(), node.bias.detach().numpy()
    from spikingjelly.activation_based import rnn

    networks = {
        "SpikingRNN": rnn.SpikingVanillaRNN(N, 5, 2),
        "SpikingLSTM": rnn.SpikingLSTM(N, 5, 2, bidirectional=True),
        "SpikingGRU": rnn.SpikingGRU(N, 5, 1),
    }
    for name, network in networks.items():
        g = torch.Generator().manual_seed(6)
        parameters = {key.replace(".", "-"): p for key, p in network.named_parameters()}
        for key, parameter in parameters.items():
            parameter.data.copy_(0.8 * torch.randn(parameter.shape, generator=g))
            store[f"{name}/{key}"] = parameter.detach().numpy()
        x = shared()[0].requires_grad_()
        y = network(x)[0]
        loss = (shared()[1][:, :, :5] * y[:, :, :5]).sum() + (shared()[2][:, :, :5] * y[:, :, -5:]).sum()
        store[f"{name}/outputs"] = y.detach().numpy()
        for key, grad in zip(["x", *parameters], torch.autograd.grad(loss, [x, *parameters.values()]), strict=True):
            store[f"{name}/grad_{key}"] = grad.numpy()
        print(f"{name}: {100 * float(y.mean()):.0f} %")
    node = neuron.ILCLIFNode(2, 3, v_decay=0.75, v_threshold=0.8, surrogate_function=surrogate.Rect(alpha=1.0))
    g = torch.Generator().manual_seed(7)
    for parameter in node.parameters():
        parameter.data.copy_(0.5 * torch.randn(parameter.shape, generator=g))
    x = shared()[0][:, :, :6].clone().requires_grad_()
    y = node(x.clone())  # it writes to its input
    store["ILC/spikes"] = y.detach().numpy().astype(np.uint8)
    store["ILC/grad_x"], store["ILC/grad_0"], store["ILC/grad_1"] = (
        grad.numpy()
        for grad in torch.autograd.grad((shared()[1][:, :, :6] * y).sum(), [x, node.conn.weight, node.conn.bias])
    )
    store["ILC/weight"], store["ILC/bias"] = node.conn.weight.detach().numpy(), node.conn.bias.detach().numpy()
    for cls in (
        "Sigmoid", "ATan", "PiecewiseQuadratic", "Erf", "PiecewiseExp", "SoftSign", "SuperSpike", "NonzeroSignLogAbs",
        "PiecewiseLeakyReLU", "QPseudoSpike", "LeakyKReLU", "LogTailedReLU", "Rect", "S2NN",
    ):  # fmt: skip
        u = torch.linspace(-3, 3, 61, requires_grad=True)
        store[f"surrogate-{cls}"] = torch.autograd.grad(getattr(surrogate, cls)()(u).sum(), u)[0].numpy()
    for cls, options in (("FakeNumericalGradient", {}), ("SquarewaveFourierSeries", dict(n=3))):
        u = torch.linspace(-3, 3, 60, requires_grad=True)  # no exact 0
        store[f"surrogate-{cls}"] = torch.autograd.grad(getattr(surrogate, cls)(**options)(u).sum(), u)[0].numpy()
    save("spikingjelly", store)


def snntorch():
    import snntorch as snn
    from snntorch import functional as sf
    from snntorch import surrogate

    store = {}
    names = {"subtract": "soft", "zero": "hard", "none": "none"}
    for mechanism, reset in names.items():
        # Parity ends at a late or absent reset: at once, snnTorch misses spikes of a residual above threshold.
        for delay in (True, False):
            if not delay and mechanism == "subtract":
                continue
            node = snn.Leaky(
                beta=torch.tensor(0.6), learn_beta=True, threshold=0.8, reset_mechanism=mechanism, reset_delay=delay
            )
            x = shared()[0].requires_grad_()
            mem, spikes, mems = torch.zeros(B, N), [], []
            for t in range(T):
                spike, mem = node(x[t], mem)
                spikes.append(spike)
                mems.append(mem)
            finish(store, f"Leaky-{reset}-{delay}", x, torch.stack(spikes), torch.stack(mems), [node.beta])
        node = snn.Synaptic(
            alpha=torch.tensor(0.7),
            beta=torch.tensor(0.6),
            learn_alpha=True,
            learn_beta=True,
            threshold=0.8,
            reset_mechanism=mechanism,
        )
        x = shared()[0].requires_grad_()
        syn, mem, spikes, mems = torch.zeros(B, N), torch.zeros(B, N), [], []
        for t in range(T):
            spike, syn, mem = node(x[t], syn, mem)
            spikes.append(spike)
            mems.append(mem)
        finish(store, f"Synaptic-{reset}", x, torch.stack(spikes), torch.stack(mems), [node.alpha, node.beta])
    for reset, mechanism in (("soft", "subtract"), ("hard", "zero")):
        node = snn.RLeaky(beta=0.6, all_to_all=True, linear_features=N, threshold=0.8, reset_mechanism=mechanism)
        g = torch.Generator().manual_seed(4)
        for parameter in node.recurrent.parameters():
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=g))
        x = shared()[0].requires_grad_()
        spike, mem, spikes, mems = torch.zeros(B, N), torch.zeros(B, N), [], []
        for t in range(T):
            spike, mem = node(x[t], spike, mem)
            spikes.append(spike)
            mems.append(mem)
        weights = [node.recurrent.weight, node.recurrent.bias]
        finish(store, f"RLeaky-{reset}", x, torch.stack(spikes), torch.stack(mems), weights)
        for key, w in zip(("weight", "bias"), weights, strict=True):
            store[f"RLeaky-{reset}/{key}"] = w.detach().numpy()
    node = snn.Alpha(alpha=0.9, beta=0.7, threshold=0.4, reset_mechanism="zero")
    x = shared()[0].requires_grad_()
    syn_exc, syn_inh, mem = (torch.zeros(B, N) for _ in range(3))
    spikes, mems = [], []
    for t in range(T):
        spike, syn_exc, syn_inh, mem = node(x[t], syn_exc, syn_inh, mem)
        spikes.append(spike)
        mems.append(mem)
    finish(store, "Alpha", x, torch.stack(spikes), torch.stack(mems))
    node = snn.Lapicque(R=2.0, C=1.5, time_step=0.5, threshold=0.4, reset_mechanism="none")  # others reset late
    x = shared()[0].requires_grad_()
    mem, spikes, mems = torch.zeros(B, N), [], []
    for t in range(T):
        spike, mem = node(x[t], mem)
        spikes.append(spike)
        mems.append(mem)
    finish(store, "Lapicque", x, torch.stack(spikes), torch.stack(mems))
    for reset, mechanism in (("soft", "subtract"), ("hard", "zero"), ("none", "none")):
        node = snn.SLSTM(N, N, threshold=0.1, reset_mechanism=mechanism)
        g = torch.Generator().manual_seed(8)
        for key, parameter in node.named_parameters():
            if key.startswith("lstm_cell"):
                parameter.data.copy_(torch.randn(parameter.shape, generator=g))
                store[f"SLSTM-{reset}/{key.removeprefix('lstm_cell.')}"] = parameter.detach().numpy()
        x = shared()[0].requires_grad_()
        syn, mem, spikes, mems = torch.zeros(B, N), torch.zeros(B, N), [], []
        for t in range(T):
            spike, syn, mem = node(x[t], syn, mem)
            spikes.append(spike)
            mems.append(mem)
        cell = node.lstm_cell
        finish(store, f"SLSTM-{reset}", x, torch.stack(spikes), torch.stack(mems), [cell.weight_ih, cell.weight_hh])
    for name, pool in (("none", {}), ("max", dict(max_pool=2)), ("avg", dict(avg_pool=2))):
        node = snn.SConv2dLSTM(1, 2, 3, threshold=0.05, **pool)
        g = torch.Generator().manual_seed(9)
        for parameter in node.conv.parameters():
            parameter.data.copy_(0.6 * torch.randn(parameter.shape, generator=g))
        x = (0.5 + torch.randn(8, 2, 1, 6, 6, generator=g)).requires_grad_()
        syn, mem, spikes = torch.zeros(2, 2, 6, 6), torch.zeros(2, 2, 6, 6), []
        for t in range(8):
            spike, syn, mem = node(x[t], syn, mem)
            spikes.append(spike)
        y = torch.stack(spikes)
        weight = torch.randn(y.shape, generator=g)
        grads = torch.autograd.grad((weight * y).sum(), [x, node.conv.weight, node.conv.bias])
        found = dict(x=x, weight=node.conv.weight, bias=node.conv.bias, up=weight, spikes=y)
        found.update(grad_x=grads[0], grad_0=grads[1], grad_1=grads[2])
        store.update({f"SConv2dLSTM-{name}/{key}": value.detach().numpy() for key, value in found.items()})
        print(f"SConv2dLSTM-{name}: {100 * float(y.mean()):.0f} %")
    node = snn.StateLeaky(beta=0.7, channels=N, threshold=0.8)
    x = shared()[0].requires_grad_()
    finish(store, "StateLeaky", x, *node(x))
    node = snn.AssociativeLeaky(N, 3, 4, 12)
    node.threshold.fill_(0.3)
    g = torch.Generator().manual_seed(10)
    for key, parameter in node.named_parameters():
        if key.startswith("to_"):
            parameter.data.copy_(0.7 * torch.randn(parameter.shape, generator=g))
            if "alpha" in key:  # decays next to 1: it divides by their products
                parameter.data.mul_(0.2).add_(2.0 * ("bias" in key))
            store[f"AssociativeLeaky/{key}"] = parameter.detach().numpy()
    x = shared()[0][:8].clone().requires_grad_()
    y = node(x)
    store["AssociativeLeaky/outputs"] = y.detach().numpy()
    store["AssociativeLeaky/grad_x"] = torch.autograd.grad(y.square().sum(), x)[0].numpy()
    u = torch.linspace(-3, 3, 60, requires_grad=True)  # no exact 0: snnTorch fires at u > 0
    for name, curve in (
        ("FastSigmoid", surrogate.fast_sigmoid()),
        ("Heaviside", surrogate.heaviside()),
        ("SpikeRateEscape", surrogate.spike_rate_escape()),
        ("SparseFastSigmoid", surrogate.SFS()),
    ):
        store[f"surrogate-{name}"] = torch.autograd.grad(curve(u).sum(), u)[0].numpy()

    spikes = (shared()[0] > 1.2).float()
    membranes, target = shared()[1], torch.tensor([2, 6, 0])
    store["loss/target"], store["loss/spikes"] = target.numpy(), spikes.numpy().astype(np.uint8)
    losses = {
        "rate_cross_entropy": sf.ce_rate_loss()(spikes, target),
        "count_cross_entropy": sf.ce_count_loss()(spikes, target),
        "max_membrane_cross_entropy": sf.ce_max_membrane_loss()(membranes, target),
        "count_mse": sf.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)(spikes, target),
        "membrane_mse": sf.mse_membrane_loss(on_target=1.1, off_target=0.2)(membranes, target),
        "first_spike_negate": sf.ce_temporal_loss(inverse="negate")(spikes, target),
        "first_spike_reciprocal": sf.ce_temporal_loss(inverse="reciprocal")(spikes, target),
        "accuracy_rate": torch.tensor(sf.accuracy_rate(spikes, target)),
    }
    store.update({f"loss/{name}": value.numpy() for name, value in losses.items()})
    s = spikes.clone().requires_grad_()
    store["loss/first_spike_grad"] = torch.autograd.grad(sf.ce_temporal_loss()(s, target), s)[0].numpy()
    save("snntorch", store)


def norse():
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters, LIBoxState, li_box_feed_forward_step
    from norse.torch.functional.lif_box import LIFBoxFeedForwardState, LIFBoxParameters, lif_box_feed_forward_step

    store = {}
    tau = 2.5  # in steps of dt = 1
    for v_leak, v_reset in ((0.0, 0.0), (0.1, -0.2)):
        p = LIFBoxParameters(
            tau_mem_inv=torch.tensor(1 / tau),
            v_leak=torch.tensor(v_leak),
            v_th=torch.tensor(0.8),
            v_reset=torch.tensor(v_reset),
        )
        x = shared()[0].requires_grad_()
        state, spikes, vs = LIFBoxFeedForwardState(v=torch.full((B, N), v_leak)), [], []
        for t in range(T):
            spike, state = lif_box_feed_forward_step(x[t], state, p, dt=1.0)
            spikes.append(spike)
            vs.append(state.v)
        finish(store, f"LIF-{v_leak}-{v_reset}", x, torch.stack(spikes), torch.stack(vs))
    from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step

    p = LIFParameters(
        tau_syn_inv=torch.tensor(0.3), tau_mem_inv=torch.tensor(1 / tau), v_leak=torch.tensor(0.0),
        v_th=torch.tensor(0.5), v_reset=torch.tensor(0.0),
    )  # fmt: skip
    x = shared()[0].requires_grad_()
    state, spikes, vs = LIFFeedForwardState(v=torch.zeros(B, N), i=torch.zeros(B, N)), [], []
    for t in range(T):
        spike, state = lif_feed_forward_step(x[t], state, p, dt=1.0)
        spikes.append(spike)
        vs.append(state.v)
    finish(store, "LIF-current", x, torch.stack(spikes), torch.stack(vs))
    p = LIBoxParameters(tau_mem_inv=torch.tensor(1 / tau), v_leak=torch.tensor(0.1))
    x = shared()[0].requires_grad_()
    state, vs = LIBoxState(v=torch.full((B, N), 0.1)), []
    for t in range(T):
        v, state = li_box_feed_forward_step(x[t], state, p, dt=1.0)
        vs.append(v)
    finish(store, "LI", x, torch.stack(vs), torch.stack(vs))
    store["LI/spikes"] = torch.stack(vs).detach().numpy()
    save("norse", store)


if __name__ == "__main__":
    spikingjelly()
    snntorch()
    norse()

"""On a GPU as on the CPU."""

import pytest
import torch
from torch import nn

import spikeloom as sl

L = sl.learn
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def test_local_rules():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    pre, post = torch.rand(20, 4, 2, 5, 5).round(), torch.rand(20, 4, 3, 5, 5).round()
    rule = L.Modulated(L.STDP(tau_pre=3.0, tau_post=4.0), tau_e=5.0)
    wanted, state = rule.sequence(layer, pre, post, modulator=torch.ones(20), carry=True)
    given = (t.cuda() for t in (pre, post))
    got, other = rule.sequence(layer.cuda(), *given, modulator=torch.ones(20), carry=True)
    torch.testing.assert_close(got.cpu(), wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(other["eligibility"].cpu(), state["eligibility"], atol=1e-3, rtol=1e-4)


def by_times():
    neuron = L.EventPropLIF(tau_mem=20.0, tau_syn=10.0, v_threshold=0.3, count_target=2.0, count_strength=0.1)
    return nn.Sequential(neuron, sl.nn.LearnedDelay(6, 3, kernel="times"))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (by_times, {}),
        (lambda: sl.LIF(tau=3.0), {"method": "eligibility"}),
        (lambda: sl.LIF(tau=3.0), {"block": 2}),
        (lambda: sl.nn.Recurrent(sl.LIF(tau=3.0), nn.Linear(6, 6)), {"method": "rtrl"}),
    ],
    ids=["times", "eligibility", "blocks", "influence"],
)
def test_pieces_and_spike_times(make, options):
    net = sl.Network(nn.Linear(4, 6), make(), nn.Linear(6, 2), sl.LI(tau=5.0)).double()
    x, found = torch.rand(24, 3, 4, dtype=torch.float64).round(), []
    for device in ("cpu", "cuda"):
        net.to(device)
        net.zero_grad()
        list(L.online(net, x.to(device), lambda y, t0: y.square().sum(), steps=8, **options))
        found.append([p.grad.cpu() for p in net.parameters()])
    torch.testing.assert_close(found[1], found[0], atol=1e-9, rtol=1e-6)

"""Loop: step by step, exact, with feedback."""

import torch
from torch import nn

import spikeloom as sl


class Feedback(sl.TemporalModule):
    """Layer 2 feeds back into layer 1."""

    def __init__(self):
        super().__init__()
        self.up, self.back, self.out = nn.Linear(3, 5), nn.Linear(4, 5), nn.Linear(5, 4)
        self.n1, self.n2 = sl.LIF(v_threshold=0.1), sl.Leaky(beta=0.8, v_threshold=0.1)

    def initial_state(self, x_t):
        return x_t.new_zeros(x_t.shape[0], 4)

    def step(self, x_t, state=None):
        last = self.initial_state(x_t) if state is None else state
        y = self.n2(self.out(self.n1(self.up(x_t) + self.back(last))))
        return y, y


def by_hand(m, x):
    v1 = v2 = last = None
    ys = []
    for x_t in x:
        last = x_t.new_zeros(x_t.shape[0], 4) if last is None else last
        s1, v1 = m.n1.step(m.up(x_t) + m.back(last), state=v1)
        last, v2 = m.n2.step(m.out(s1), state=v2)
        ys.append(last)
    return torch.stack(ys)


def test_feedback_between_layers_equals_the_loop_by_hand():
    m, x = Feedback(), torch.randn(9, 2, 3)
    net = sl.Network(nn.Identity(), sl.Loop(m), nn.Linear(4, 2))
    y, result = net(x, record=("1.module.n1.v", "1.output"))
    wanted = by_hand(m, x)
    assert 0 < wanted.mean() < 1
    assert torch.equal(result.record["1.output"], wanted)
    assert torch.equal(y, net.body[2](wanted.flatten(0, 1)).view(9, 2, 2))
    assert result.record["1.module.n1.v"].shape == (9, 2, 5)
    y.sum().backward()
    assert all(p.grad is not None for p in m.parameters())


def test_loop_splits_streams_and_runs_alone():
    m, x = Feedback(), torch.randn(9, 2, 3)
    net, wanted = sl.Network(sl.Loop(m)), by_hand(m, x)
    first, result = net(x[:4], return_state=True)
    assert torch.equal(torch.cat([first, net(x[4:], state=result.state)]), wanted)
    stream = net.stream()
    assert torch.equal(torch.stack([stream(x_t) for x_t in x]), wanted)
    assert torch.equal(sl.Loop(m).sequence(x)[0], wanted)


def test_loop_of_plain_layers_equals_the_network():
    layers = nn.Sequential(nn.Linear(3, 6), sl.LIF(v_threshold=0.2), nn.Linear(6, 2), sl.LI())
    x = torch.randn(7, 3, 3)
    torch.testing.assert_close(sl.Network(sl.Loop(layers))(x), sl.Network(layers)(x), atol=1e-6, rtol=0)


def test_loops_nest():
    layers = nn.Sequential(nn.Linear(3, 6), sl.Loop(nn.Sequential(nn.Identity(), sl.LIF(v_threshold=0.2))))
    x = torch.randn(5, 2, 3)
    y, result = sl.Network(sl.Loop(layers))(x, return_state=True)
    torch.testing.assert_close(y, sl.Network(layers[0], sl.LIF(v_threshold=0.2))(x), atol=1e-6, rtol=0)
    assert list(result.state) == ["0"]

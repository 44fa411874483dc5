"""One operator per neuron layer under torch.compile: the same as the loop, and a graph that changes of numbers keep."""

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


# PyTorch's own, raised inside torch.compile.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Adaptive(sl.Neuron):
    def __init__(self, features):
        super().__init__(surrogate=sl.surrogate.Sigmoid(4.0))
        self.numbers(tau=3.0, rho=nn.Parameter(torch.linspace(0.7, 0.98, features)))
        self.states(v=0.0, a=0.0)

    def dynamics(self, x, v, a):
        v = v + (x * torch.exp(-a) - v) / self.tau
        s = self.fire(v - 0.3 * a - 0.4)
        return s, v - s, a * self.rho + s * (1 - self.rho)


def net_of():
    torch.manual_seed(0)
    return sl.Network(nn.Linear(5, 8), Adaptive(8), nn.Linear(8, 3), sl.PLIF(v_threshold=0.3)).double()


def graphs():
    """A backend that keeps the names of the functions of each graph."""
    seen = []

    def backend(module, inputs):
        seen.append([str(n.target) for n in module.graph.nodes if n.op == "call_function"])
        return module.forward

    return seen, backend


def everything(call, net, x, **options):
    leaf = x.clone().requires_grad_()
    y, result = call(leaf, record=("1.v",), return_state=True, **options)
    outs = [y, result.record["1.v"], result.state["1"]["a"], result.state["3"]["v"]]
    grads = torch.autograd.grad(sum((o * o).sum() for o in outs), [leaf, *net.parameters()])
    return [o.detach() for o in outs], list(grads)


@pytest.mark.parametrize("T", [1, 6, 40])
def test_a_compiled_network_has_one_operator_per_neuron_layer(T):
    net, x = net_of(), torch.randn(T, 3, 5, dtype=torch.float64)
    with sl.backend("eager"):
        wanted = everything(net, net, x)
    seen, backend = graphs()
    got = everything(torch.compile(net, fullgraph=True, backend=backend), net, x)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=1e-10)
    (functions,) = seen
    assert functions.count("spikeloom.scan") == 2
    assert not any("exp" in f for f in functions)  # no step was unrolled
    got = everything(torch.compile(net, fullgraph=True, backend="aot_eager"), net, x)
    torch.testing.assert_close(got, wanted, atol=1e-10, rtol=1e-10)


def test_ragged_and_static_inputs():
    net, x = net_of(), torch.randn(20, 3, 5, dtype=torch.float64)
    compiled = torch.compile(net, backend="aot_eager")
    lengths = torch.tensor([20, 3, 11])
    first = sl.Network(sl.LIF(v_threshold=0.3), nn.Linear(5, 2)).double()
    with sl.backend("eager"):
        wanted, image = net(x, lengths=lengths), first(x[0], repeat=20)
    torch.testing.assert_close(compiled(x, lengths=lengths), wanted)
    torch.testing.assert_close(torch.compile(first, fullgraph=True, backend="aot_eager")(x[0], repeat=20), image)


def test_numbers_change_without_and_options_with_a_new_graph():
    net, x = net_of(), torch.randn(20, 3, 5, dtype=torch.float64)
    seen, backend = graphs()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    for tau in (2.0, 3.5, 7.0):
        net.body[1].tau = tau
        torch.testing.assert_close(compiled(x), net(x))
    assert len(seen) == 1
    net.body[3].reset = "none"
    torch.testing.assert_close(compiled(x), net(x))
    assert len(seen) == 2


def test_a_chosen_loop_is_unrolled():
    net, x = net_of(), torch.randn(3, 3, 5, dtype=torch.float64)
    seen, backend = graphs()
    with sl.backend("eager"):
        torch.compile(net, fullgraph=True, backend=backend)(x)
    assert "spikeloom.scan" not in seen[0]


def test_the_operator_keeps_the_rules_of_operators():
    from spikeloom.kernel import compiled, op, store

    neuron = sl.PLIF(shape=6, v_threshold=0.3)
    op.define()
    text = op.json.dumps([store.dumps(compiled.kernels_of(neuron).program), [False], [0], "c"])
    for T in (5, 33):
        x = torch.randn(T, 4, 6, requires_grad=True)
        numbers = [
            n.detach().clone().requires_grad_(n.is_floating_point()) for n in neuron.all_numbers(x.shape[1:], x.dtype)
        ]
        args = (text, [x], [torch.zeros(4, 6, requires_grad=True)], numbers, None, T)
        torch.library.opcheck(torch.ops.spikeloom.scan, args, test_utils=("test_schema", "test_faketensor"))
        found = torch.ops.spikeloom.scan(*args)
        assert [tuple(f.shape) for f in found] == [(T, 4, 6), (4, 6), (T, 4, 6), ((T - 1) // 16, 4, 6)]

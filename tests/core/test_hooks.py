"""Hooks see what they would see without anything that is faster: the same calls, the same values."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as for_all

import spikeloom as sl

T, IMAGE = 4, torch.rand(3, 2, 5, 5)


def network(**options):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    nested = nn.Sequential(first, sl.LIF(v_threshold=0.2))
    return sl.Network(nested, nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3), sl.Leaky(beta=0.5), nn.Flatten(), **options)


def log(net, register, *inputs, **options):
    """What a hook is told: the class of the module and the sums of what it is given, in order."""
    told = []

    def hook(module, *seen):
        tensors = [x for x in torch.utils._pytree.tree_leaves(seen) if isinstance(x, torch.Tensor)]
        told.append((type(module).__name__, [tuple(x.shape) for x in tensors], [x.detach().sum() for x in tensors]))

    handle = register(net, hook)
    try:
        net(*inputs, **options).square().sum().backward()
    finally:
        handle.remove()
    return told


PLACES = {"body": "body", "nested": "body.0", "deeper": "body.0.0", "first": "body.0.0.0", "norm": "body.2"}
PLACES |= {"prefix norm": "body.0.0.1", "neuron": "body.0.1", "after a norm": "body.3"}
KINDS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [*PLACES, "all modules"])
@pytest.mark.parametrize("repeat", [True, False])
def test_a_hook_is_told_the_same_as_without_fast_paths(kind, place, repeat):
    def register(net, hook):
        if place == "all modules":
            return getattr(for_all, f"register_module_{kind}_hook")(hook)
        return getattr(net.get_submodule(PLACES[place]), f"register_{kind}_hook")(hook)

    inputs = (IMAGE.clone().requires_grad_(),) if repeat else (torch.rand(T, 3, 2, 5, 5, requires_grad=True),)
    options = {"repeat": T} if repeat else {}
    fast = log(network(), register, *inputs, **options)
    with sl.backend("eager"):
        plain = log(network(static_prefix=False, fuse=False), register, *inputs, **options)
    assert [told[:2] for told in fast] == [told[:2] for told in plain]
    assert fast
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a[2], b[2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("path", ["surrogate", "neuron.surrogate"])
def test_a_hook_on_a_surrogate_is_called_at_every_step(path):
    neuron = sl.LIF() if path == "surrogate" else sl.options.Refractory(sl.LIF(), steps=2)
    told, x = [], torch.rand(T, 3, 2)
    wanted = neuron.sequence(x)[0]
    handle = neuron.get_submodule(path).register_forward_hook(lambda *seen: told.append(seen[2]))
    assert torch.equal(neuron.sequence(x)[0], wanted)
    assert len(told) == T
    neuron.step(x[0])
    assert len(told) == T + 1
    with pytest.raises(RuntimeError, match="has a hook, which a kernel would not call"), sl.backend("c"):
        neuron.sequence(x)
    handle.remove()
    neuron.sequence(x)
    assert len(told) == T + 1


@pytest.mark.parametrize("place", PLACES)
def test_what_a_hook_gives_is_used(place):
    net, x = network(), torch.rand(T, 3, 2, 5, 5)
    net.get_submodule(PLACES[place]).register_forward_hook(lambda module, args, y: torch.zeros_like(y))
    fast = net(x)
    plain = network(static_prefix=False, fuse=False)
    plain.get_submodule(PLACES[place]).register_forward_hook(lambda module, args, y: torch.zeros_like(y))
    with sl.backend("eager"):
        assert torch.equal(fast, plain(x))


def test_a_forward_that_is_put_onto_a_layer_runs():
    net, x = network(), torch.rand(T, 3, 2, 5, 5)
    for path in ("body.0.0.0", "body.2"):
        layer, shapes = net.get_submodule(path), []
        was = layer.forward
        layer.forward = lambda x, was=was, shapes=shapes: shapes.append(tuple(x.shape)) or was(x)
        net(x)
        net(IMAGE, repeat=T)
        assert [shape[0] for shape in shapes] == [3 * T, 3 * T]
        del layer.forward


def test_a_norm_inside_of_one_module_with_its_neuron_is_seen():
    module = sl.nn.NormNeuron(nn.BatchNorm1d(4), sl.LIF())
    net, shapes = sl.Network(nn.Identity(), module), []
    module.bn.register_forward_hook(lambda _, args, y: shapes.append(tuple(args[0].shape)))
    net(torch.rand(T, 3, 4))
    assert shapes == [(3 * T, 4)]


AROUND = {
    "option": lambda: sl.options.Refractory(sl.LIF(v_threshold=0.2), steps=1),
    "nested": lambda: sl.options.Graded(sl.options.Refractory(sl.LIF(v_threshold=0.2), steps=1)),
    "norm neuron": lambda: sl.nn.NormNeuron(nn.BatchNorm1d(4), sl.LIF(v_threshold=0.2)),
    "recurrent": lambda: sl.nn.Recurrent(sl.LIF(v_threshold=0.2), nn.Linear(4, 4)),
    "at once": lambda: sl.nn.ParallelLIF(sl.LIF(v_threshold=0.2)),
}


@pytest.mark.parametrize("name", AROUND)
def test_hooks_on_a_neuron_inside_another_module_do_not_run_and_those_on_the_outer_one_do(name):
    net, x, told = sl.Network(nn.Identity(), AROUND[name]()).eval(), torch.rand(T, 3, 4), []
    wanted = net(x)
    net.body[1].neuron.register_forward_hook(lambda *_: told.append("inner"))
    assert torch.equal(net(x), wanted)
    assert told == []
    net.body[1].register_forward_hook(lambda module, args, y: told.append("outer") or 0 * y)
    assert not net(x).any()
    assert told == ["outer"]


def test_who_only_looks_changes_nothing():
    net = network()
    x = torch.rand(T, 3, 2, 5, 5)
    rows = {row.path: row for row in sl.explain(net, x).rows}
    if rows["3"].backend == "c":  # there is a compiler
        assert "fused with BatchNorm2d" in rows["3"].reason
    seen = sl.memory.report(net, x)
    handle = for_all.register_module_forward_hook(lambda *_: None)
    try:
        assert sl.memory.report(net, x).saved > seen.saved  # norms run by themselves, and keep more
    finally:
        handle.remove()
    assert sl.memory.report(net, x).saved == seen.saved


def test_streams_run_hooks_that_come_and_go():
    net = network().eval()
    stream, x, told = net.stream(), torch.rand(6, 3, 2, 5, 5), []
    wanted = net(x).detach()
    with torch.no_grad():
        ys = [stream(x[0]), stream(x[1])]
        handle = net.body[2].register_forward_pre_hook(lambda *_: told.append("norm"))
        ys += [stream(x[2])]
        handle.remove()
        handle = for_all.register_module_forward_hook(lambda module, *_: told.append(type(module).__name__))
        ys += [stream(x[3])]
        handle.remove()
        ys += [stream(x[4]), stream(x[5])]
    assert told[0] == "norm"
    assert told[1:].count("BatchNorm2d") == 2
    assert told[1:].count("Sequential") == 3
    torch.testing.assert_close(torch.stack(ys), wanted)


def test_parametrised_layers_compute_what_they_are():
    class Twice(nn.Module):
        def forward(self, w):
            return 2 * w

    net = network().eval()
    x = torch.rand(T, 3, 2, 5, 5)
    for path in ("body.0.0.0", "body.2"):
        plain = copy.deepcopy(net)
        with torch.no_grad():
            plain.get_submodule(path).weight.mul_(2)
        nn.utils.parametrize.register_parametrization(net.get_submodule(path), "weight", Twice())
        torch.testing.assert_close(net(x), plain(x))
        torch.testing.assert_close(net(IMAGE, repeat=T), plain(IMAGE, repeat=T))

"""Batch norms in models with a forward of their own: what joins a neuron, and that nothing else changes."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import spikeloom as sl
from spikeloom.core.promise import Promise
from spikeloom.kernel import waiting

T, B, C = 3, 2, 4


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(waiting, "WORTH", 0)


class Own(nn.Module):
    """A model whose forward is ``run(model, x)``."""

    def __init__(self, run, norms=2, neuron=sl.LIF):
        super().__init__()
        self.conv = nn.ModuleList([nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(norms)])
        self.bn = nn.ModuleList([nn.BatchNorm2d(C) for _ in range(norms)])
        self.neuron = nn.ModuleList([neuron() for _ in range(norms)])
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def network(run, seed=0, **options):
    torch.manual_seed(seed)
    net = sl.Network(Own(run, **options)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.0).add_(0.3 * torch.randn_like(p))
    return net


def without(net):
    """A copy in which every batch norm runs by itself."""
    other = copy.deepcopy(net)
    other.fuse = False
    return other


def inputs(seed=1):
    return torch.randn(T, B, C, 5, 5, generator=torch.Generator().manual_seed(seed)).double()


def gave(net, x):
    """Output, gradients of x and parameters, and buffers after a call."""
    x = x.clone().requires_grad_()
    net.zero_grad()
    y = net(x)
    dense = y.unpack() if isinstance(y, sl.SpikeTensor) else y
    (dense * torch.linspace(0.5, 1.5, dense.numel(), dtype=dense.dtype).view(dense.shape)).sum().backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    return dense.detach(), x.grad, grads, {name: b.clone() for name, b in net.named_buffers()}


def check(net, x=None, calls=2):
    x = inputs() if x is None else x
    other = without(net)
    for _ in range(calls):  # the second call knows what looked in the first one
        ours, theirs = gave(net, x), gave(other, x)
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
        assert {k: v for k, v in ours[3].items() if k.endswith("tracked")} == {
            k: v for k, v in theirs[3].items() if k.endswith("tracked")
        }
    assert not any("forward" in vars(m) for m in net.modules())


def norms(net, x=None):
    """``{path of a batch norm: (what became of it, why)}``."""
    rows = sl.explain(net, inputs() if x is None else x).rows
    return {row.path: (row.backend, row.reason) for row in rows if row.module == "BatchNorm2d"}


def saved(net, x):
    """Bytes that a call saves for its backward pass, each memory once."""
    seen = {}

    def pack(t):
        seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(x)
    del y
    return sum(seen.values())


def chain(m, x):
    return m.neuron[0](m.bn[0](m.conv[0](x)))


def residual(m, x):
    out = m.neuron[0](m.bn[0](m.conv[0](x)))
    out = m.bn[1](m.conv[1](out))
    out += x
    return m.neuron[1](out)


def both_consumers(m, x):
    y = m.bn[0](m.conv[0](x))
    return m.neuron[0](y) + m.neuron[1](y) + y


def shared(m, x):
    y = m.neuron[0](m.bn[0](m.conv[0](x)))
    return m.neuron[0](m.bn[0](m.conv[0](y)))


def looked_first(m, x):
    y = m.bn[0](m.conv[0](x))
    size = y.mean()
    return m.neuron[0](y) * size


def looked_later(m, x):
    y = m.bn[0](m.conv[0](x))
    z = m.neuron[0](y)
    return z * y.amax()


def in_place(m, x):
    y = m.bn[0](m.conv[0](x))
    y.add_(0.25)
    y[:, 0] *= 2
    return m.neuron[0](y) + y


def two_norms(m, x):
    return m.neuron[0](m.bn[1](m.bn[0](m.conv[0](x))))


def cat(m, x):
    return m.neuron[0](m.conv[1](torch.cat([m.bn[0](m.conv[0](x))[:, :2], m.bn[1](x)[:, 2:]], 1)))


def reads_statistics(m, x):
    y = m.bn[0](m.conv[0](x))
    return m.neuron[0](y) * m.bn[0].running_mean.view(-1, 1, 1)


def half_without_graph(m, x):
    with torch.no_grad():
        y = m.bn[0](m.conv[0](x))
    return m.neuron[0](y) + m.neuron[1](m.bn[1](x))


def detached(m, x):
    y = m.bn[0](m.conv[0](x))
    return m.neuron[0](y.detach()) + m.neuron[1](m.bn[1](y))


FORWARDS = (
    chain, residual, both_consumers, shared, looked_first, looked_later, in_place, two_norms, cat, reads_statistics,
    half_without_graph, detached,
)  # fmt: skip


@pytest.mark.parametrize("run", FORWARDS, ids=lambda run: run.__name__)
def test_all_is_as_without_joining(run):
    check(network(run))
    net = network(run, seed=3)
    net(inputs(5))
    check(net.eval())
    net = network(run, seed=4)
    net.spikes = "packed"
    check(net)


def test_what_joins_and_what_looks():
    assert norms(network(chain)) == {"bn.0": ("joined", "LIF at 'neuron.0'")}
    assert norms(network(residual)) == {"bn.0": ("joined", "LIF at 'neuron.0'"), "bn.1": ("alone", "looked at by add")}
    assert norms(network(looked_first)) == {"bn.0": ("alone", "looked at by mean")}
    assert norms(network(two_norms))["bn.0"] == ("alone", "looked at by batch_norm")
    net = network(chain)
    net.fuse = False
    assert norms(net) == {}
    with sl.backend("eager"):
        assert norms(network(chain)) == {}


def test_a_norm_of_few_values_does_not_wait(monkeypatch):
    monkeypatch.setattr(waiting, "WORTH", 601)
    assert norms(network(chain)) == {"bn.0": ("alone", "fewer than 601 values")}
    monkeypatch.setattr(waiting, "WORTH", 600)
    assert norms(network(chain)) == {"bn.0": ("joined", "LIF at 'neuron.0'")}


def test_the_normalised_tensor_is_not_saved():
    """The batch norm saves its input and the neuron the normalised tensor; together they save the input."""
    net, x = network(chain), inputs()
    less = saved(without(net), x) - saved(net, x)
    assert abs(less - x.numel() * 8) <= 500  # numbers of norm and neuron are saved in another form


def test_what_looked_is_not_promised_for_a_while():
    net, made = network(residual), []

    def run(m, x):
        y = m.bn[1](m.conv[1](m.neuron[0](m.bn[0](m.conv[0](x)))))
        made.append(type(y) is Promise)
        return m.neuron[1](y + x)

    net.body.run = run
    for _ in range(70):
        net(inputs())
    assert made == [True] + 64 * [False] + [True] + 4 * [False]
    net.body.extra = nn.Identity()  # another network
    net(inputs())
    assert made[-1]


class Calls(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, m):
        return m(x)

    @staticmethod
    def backward(ctx, g):
        return g * 0.25, None


class Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 0.5

    @staticmethod
    def backward(ctx, g):
        return g * 0.5


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].sign()


@pytest.mark.parametrize("function", [Half, Same])
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_function_of_somebodys_own_sends_its_gradient_through_the_norm(function, more, training):
    """Torch tells a tensor's class nothing of these."""

    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        z = m.neuron[0](function.apply(y))
        return z + m.neuron[1](y) * y if more else z

    net = network(run)
    net(inputs(4))
    check(net.train(training))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * 2.0


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2.0 * g * ctx.saved_tensors[0]


def rectified(y):
    nn.functional.relu(y, inplace=True)


ON_THE_WAY = {
    "a hook": lambda y: y.register_hook(lambda g: g * 0.5),
    "retain_grad": lambda y: y.retain_grad(),
    "in place": rectified,
    "detach_": lambda y: y.detach_(),
}


@pytest.mark.parametrize("name", ON_THE_WAY)
def test_a_function_whose_gradient_would_pass_by_something_raises(name):
    def before(m, x):
        y = m.bn[0](m.conv[0](x))
        ON_THE_WAY[name](y)
        return m.neuron[0](Twice.apply(y)) + x

    def after(m, x):
        y = m.bn[0](m.conv[0](x))
        z = Twice.apply(y)
        ON_THE_WAY[name](y)
        return m.neuron[0](z) + y

    for run in (before, after):
        net, x = network(run), inputs().requires_grad_()
        if run is after and name in ("in place", "detach_"):
            check(net)  # the function was called with what the norm gave
            continue
        with pytest.raises(RuntimeError, match=r"BatchNorm2d\(4\): its output .* does not pass by that; clone"):
            net(x).sum().backward()
        net.fuse = False
        net(x).sum().backward()


def test_what_a_function_has_saved_and_was_written_to_since_is_noticed():
    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        z = Square.apply(y)
        rectified(y)
        return z + y

    net = network(run)
    for fuse in (True, False):
        net.fuse = fuse
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            net(inputs()).sum().backward()


def test_what_is_told_of_a_tensor_is_as_it_is_now():
    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        y.unsqueeze_(1)
        told.append((y.shape, y.ndim, len(y), y.requires_grad))
        y.squeeze_(1).detach_()
        told.append((y.shape, y.ndim, len(y), y.requires_grad))
        return m.neuron[0](y + x)

    told = []
    check(network(run), calls=1)
    assert told[:2] == told[2:] == [((6, 1, C, 5, 5), 5, 6, True), ((6, C, 5, 5), 4, 6, False)]


def test_whoever_takes_its_address_is_told_that_it_has_no_memory():
    net = network(lambda m, x: torch.from_dlpack(torch._C._to_dlpack(m.bn[0](m.conv[0](x)))))
    with torch.no_grad(), pytest.raises(RuntimeError, match="Cannot access data pointer"):
        net(inputs())


def test_second_derivatives_raise_where_the_norm_was_bypassed():
    net, x = network(lambda m, x: Half.apply(m.bn[0](m.conv[0](x)))), inputs().requires_grad_()
    (g,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_writing_to_what_the_norm_was_given_raises():
    def run(m, x):
        x = m.conv[0](x)
        y = m.bn[0](x)
        x.mul_(2.0)
        return m.neuron[0](y)

    net = network(run)
    for use in (torch.no_grad, torch.enable_grad):
        with use(), pytest.raises(RuntimeError, match=r"BatchNorm2d\(4\): its input .* written to in place"):
            net(inputs())
    with torch.inference_mode():  # where nothing counts what is written
        assert torch.equal(net(inputs()), without(net)(inputs()))


def test_hooks_see_what_they_would_see():
    def run(m, x):  # torch itself lets nobody write to what a module with backward hooks has given
        return m.neuron[1](m.bn[1](m.conv[1](m.neuron[0](m.bn[0](m.conv[0](x))))) + x)

    net, x = network(run), inputs()

    def watch(of):
        seen = []
        handles = []
        for name in ("conv.0", "bn.0", "neuron.0", "bn.1", "neuron.1"):
            m = of.body.get_submodule(name)
            handles.append(m.register_forward_hook(lambda m, a, y: seen.append((a[0] * 1, y * 1))))
            handles.append(m.register_full_backward_hook(lambda m, gi, go: seen.append((gi[0] * 1, go[0] * 1))))
        found = gave(of, x)
        for handle in handles:
            handle.remove()
        return seen, found

    other = without(net)
    torch.testing.assert_close(watch(net), watch(other), rtol=1e-11, atol=1e-11)
    check(net)
    handle = net.body.neuron[0].register_forward_pre_hook(lambda m, a: (a[0] * 0.5,))
    check(net)
    handle.remove()
    net.body.neuron[0].register_full_backward_hook(lambda m, gi, go: (gi[0] * 0.5,))
    check(net)


def test_taps_and_recordings_see_the_normalised_tensor_and_leave_the_norm_joined():
    net, x = network(chain).eval(), inputs()
    wanted = net.body.bn[0](net.body.conv[0](x.flatten(0, 1))).unflatten(0, (T, B))
    with sl.taps(net, "bn.0.output", "neuron.0.input", "neuron.0.v") as seen:
        rows = norms(net)
        for name in ("bn.0.output", "neuron.0.input"):
            torch.testing.assert_close(seen[name], [wanted])
    assert rows == {"bn.0": ("joined", "LIF at 'neuron.0'")}
    x.requires_grad_()
    y, result = net(x, record=("bn.0.output",))
    torch.testing.assert_close(result.record["bn.0.output"], wanted)
    (g,) = torch.autograd.grad(y.sum(), result.record["bn.0.output"])
    assert g.shape == wanted.shape
    assert g.abs().sum() > 0
    grads = []
    for of in (net, without(net)):
        with sl.taps(of, "bn.0.grad_output", "neuron.0.grad_input") as seen:
            of(x).square().sum().backward()
        grads.append(seen["bn.0.grad_output"])
    torch.testing.assert_close(*grads)


def test_a_recording_stays_where_what_was_recorded_is_written_to():
    class Block(nn.Module):
        def __init__(self, bn):
            super().__init__()
            self.bn = bn

        def forward(self, x):
            y = self.bn(x)
            self.mean = y.mean()
            return y

    def run(m, x):
        y = m.block(m.conv[0](x))
        y += x
        return m.neuron[0](y)

    net, x = network(run).eval(), inputs()
    net.body.block = Block(net.body.bn[0])
    wanted = net.body.bn[0](net.body.conv[0](x.flatten(0, 1))).unflatten(0, (T, B))
    for use in (torch.no_grad, torch.enable_grad):
        with use():
            _, result = net(x, record=("block.output", "bn.0.output"))
        for found in result.record.values():
            torch.testing.assert_close(found, wanted)


def test_checkpointing():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = Own(residual)

        def forward(self, x):
            return self.own(x)

    def run(m, x):
        y = m.bn[0](m.conv[0](x))  # promised outside, used inside
        return m.neuron[1](m.bn[1](sl.memory.checkpoint(m.part, sl.memory.checkpoint(m.first, y))))

    net = network(run)
    net.body.part, net.body.first = Part().double(), nn.Sequential(sl.LIF(), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C))
    net = net.double()
    check(net)
    net.spikes = "packed"
    check(net)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_was_promised_before_a_checkpoint_of_torchs_is_no_part_of_it(reentrant):
    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        again = torch.utils.checkpoint.checkpoint(lambda y: y.sin() * y, y, use_reentrant=reentrant)
        return m.neuron[0](again) + m.neuron[1](y)

    check(network(run))


@pytest.mark.parametrize("reentrant", [False, True])
def test_parts_without_neurons_in_a_checkpoint_of_torchs(reentrant):
    def run(m, x):
        x = torch.utils.checkpoint.checkpoint(m.part, x, use_reentrant=reentrant)
        return m.neuron[1](m.bn[1](m.conv[1](m.neuron[0](x))))

    net = network(run)
    net.body.part = nn.Sequential(net.body.conv[0], net.body.bn[0])
    check(net.eval())  # in training the statistics of the part move twice, with ours and with torch's alone
    check(net.train())


def test_a_function_that_calls_the_norm_itself_keeps_its_gradient():
    def run(m, x):
        y = Calls.apply(m.conv[0](x), m.bn[0])
        z = Calls.apply(m.conv[1](x), m.bn[1])
        z.add_(0.5)
        return m.neuron[0](y) + m.neuron[1](z) * y

    check(network(run))


def test_threads_of_one_network():
    net, x = network(residual).eval(), inputs()
    wanted, found, problems = without(net)(x), [], []

    def work(i):
        try:
            for _ in range(10):
                if i % 2:
                    found.append(net(x))
                else:
                    stream = net.stream()
                    found.append(torch.stack([stream(x_t) for x_t in x]))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(found) == 40
    assert all(torch.equal(y, wanted) for y in found)
    assert not any("forward" in vars(m) for m in net.modules())


def test_steps_ragged_batches_and_small_batches_are_as_ever():
    net, x = network(residual).eval(), inputs()
    lengths = torch.tensor([T, 1])
    assert torch.equal(net(x, lengths=lengths), without(net)(x, lengths=lengths))
    net.train()
    assert torch.equal(net(x, lengths=lengths), without(net)(x, lengths=lengths))
    single = torch.randn(1, 1, C, 1, 1).double()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        sl.Network(Own(lambda m, x: m.neuron[0](m.bn[0](x)))).double()(single)


def test_a_forward_that_raises_leaves_no_trace():
    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        m.neuron[0](y)
        raise KeyError("mine")

    net = network(run)
    with pytest.raises(KeyError, match="mine"):
        net(inputs())
    assert not any("forward" in vars(m) for m in net.modules())


def test_whoever_keeps_the_output_of_a_norm_has_it_as_it_was():
    held = []

    def run(m, x):
        held.append(m.bn[0](m.conv[0](x)))
        return m.neuron[0](held[-1])

    net, x = network(run).eval(), inputs()
    wanted = net.body.bn[0](net.body.conv[0](x.flatten(0, 1)))
    net(x)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    torch.testing.assert_close(held[0] * 1, wanted)


def test_nothing_is_kept_alive():
    alive = []

    def run(m, x):
        x = m.conv[0](x)
        alive.append(weakref.ref(x))
        return m.neuron[0](m.bn[0](x))

    gc.disable()
    try:
        net = network(run)
        with torch.no_grad():
            net(inputs())
        y = net(inputs())
        del y
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("neuron", [
    lambda: sl.Leaky(beta=0.5), lambda: sl.options.Refractory(sl.IF(), steps=1), lambda: sl.nn.PSN(T),
    lambda: sl.options.Noisy(sl.LIF(), input=0.1), lambda: sl.LIF(surrogate=sl.surrogate.StochasticSpikeOperator()),
    lambda: sl.nn.Recurrent(sl.LIF(), nn.Conv2d(C, C, 1)), lambda: sl.nn.Delay(1), nn.Identity,
], ids=["Leaky", "option", "PSN", "noise", "no kernel", "recurrent", "delay", "identity"])  # fmt: skip
def test_neurons_that_join_and_modules_that_do_not(neuron):
    net = network(residual, neuron=neuron)
    found = []
    for of in (net, without(net)):
        torch.manual_seed(5)
        found.append(gave(of, inputs()))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_a_shallow_copy_of_a_norm_is_a_norm_of_its_own():
    def run(m, x):
        copied = copy.copy(m.bn[0])  # which torch's DataParallel does too
        copied.training = False
        copies.append(copied)
        return m.neuron[0](copied(m.conv[0](x))) + m.neuron[1](m.bn[0](m.conv[1](x)))

    copies, net = [], network(run)
    check(net)
    x = inputs()[0]
    for copied in copies:
        copied.running_mean = torch.ones(C).double()
        torch.testing.assert_close(copied(x), nn.BatchNorm2d.forward(copied, x))


def test_a_changed_class_and_a_norm_of_somebodys_own():
    class Twice(nn.BatchNorm2d):
        def forward(self, x):
            return 2.0 * super().forward(x)

    net = network(residual)
    net(inputs())
    net.body.bn[0].__class__ = Twice
    check(net)
    net.body.bn[1].forward = lambda x: nn.BatchNorm2d.forward(net.body.bn[1], x) * 0.5
    y = net(inputs())
    assert "forward" in vars(net.body.bn[1])
    assert y.shape == (T, B, C, 5, 5)


def test_channels_last_and_low_precision():
    net = network(residual).to(memory_format=torch.channels_last)
    x = inputs().flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (T, B))
    check(net, x)
    net, x = network(residual).float(), inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        assert norms(net, x)["bn.0"][0] == "joined"
        found = [n(x) for n in (net.eval(), without(net))]
    assert (found[0] != found[1]).float().mean() < 0.02  # bfloat16 rounds what is normalised


@pytest.mark.slow  # Dynamo takes seconds to load
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which Dynamo asks for
def test_a_part_that_is_compiled():
    net = network(residual)
    twice = torch.compile(lambda y: y * 2.0, backend="eager")
    net.body.run = lambda m, x: m.neuron[0](twice(m.bn[0](m.conv[0](x))))
    check(net)
    assert norms(net)["bn.0"] == ("alone", "looked at by mul")
    net.body.conv[1].compile(backend="eager")
    net.body.run = residual
    check(net)
    assert norms(net) == {}


def test_a_tensor_that_was_written_to_is_nothing_for_what_does_not_say_its_name():
    def run(m, x):
        y = m.bn[0](m.conv[0](x))
        y.add_(1.0)
        return m.neuron[0](Half.apply(Same.apply(y)) if m.fails else y)

    net = network(run)
    net.body.fails = False
    check(net)
    net.body.fails, net.body.extra = True, nn.Identity()
    with pytest.raises(RuntimeError, match="does not pass by that"):
        net(inputs()).sum().backward()
    check(net)  # the norm does not wait again
    net = network(lambda m, x: m.neuron[0](m.bn[0](m.conv[0](x)).add_(1.0)))
    check(net)


STATEMENTS = ("join", "add", "in place", "hold", "pool", "look", "cat", "function", "twice", "shape")


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=5), st.integers(0, 99), st.booleans())
def test_any_block(statements, seed, training):
    def run(m, x):
        held = []
        for i, statement in enumerate(statements):
            y = m.bn[i](m.conv[i](x))
            if statement == "add":
                y = y + x
            elif statement == "in place":
                y += x
            elif statement == "hold":
                held.append(y)
            elif statement == "pool":
                y = nn.functional.max_pool2d(y, 3, 1, 1)
            elif statement == "look":
                held.append(y.relu())
            elif statement == "cat":
                y = torch.cat([y[:, :1], x[:, 1:]], 1)
            elif statement == "function":
                held.append(Half.apply(y))
            elif statement == "shape":
                y = y.view(y.shape[0], C, *y.size()[2:])
            x = m.neuron[i](y)
            if statement == "twice":
                x = m.neuron[i](y) + x
        return sum(held, x)

    net = network(run, seed, norms=len(statements))
    net(inputs(seed))
    check(net.train(training), inputs(seed + 1))

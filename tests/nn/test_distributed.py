"""Layers over time and waiting norms in two processes, whose gradients DistributedDataParallel averages."""

import copy
import gc

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

import spikeloom as sl
from spikeloom.kernel import waiting

T, B, C = 4, 3, 4


class Block(nn.Module):
    """A block with a forward of its own: one norm joins its neuron, the other is looked at."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fires = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), sl.LIF(v_threshold=0.3)
        self.conv_2, self.norm_2, self.fires_2 = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), sl.PLIF(v_threshold=0.3)

    def forward(self, x):
        y = self.norm_2(self.conv_2(self.fires(self.norm(self.conv(x)))))
        y += x
        return self.fires_2(y)


MAKE = {
    "waiting norms": lambda: [Block()],
    "td_batch_norm": lambda: [nn.Conv2d(C, C, 3), sl.nn.td_batch_norm(C, v_threshold=0.5), sl.LIF(v_threshold=0.5)],
    "TEBN": lambda: [nn.Conv2d(C, C, 3), sl.nn.TEBN(C, T), sl.LIF(v_threshold=0.5)],
    "BNTT": lambda: [nn.Conv2d(C, C, 3), sl.nn.BNTT(C, T), sl.LIF(v_threshold=0.5)],
    "LearnedDelay": lambda: [sl.nn.LearnedDelay(C, 3), nn.Conv2d(C, C, 3), sl.LIF(v_threshold=0.2)],
    "DelayLinear": lambda: [nn.Flatten(), sl.nn.DelayLinear(C * 36, 8, 3), sl.LIF(v_threshold=0.1)],
    "attention": lambda: [
        nn.Conv2d(C, 8, 3), nn.BatchNorm2d(8), sl.LIF(v_threshold=0.3), nn.Flatten(2), sl.nn.SpikingSelfAttention(8, 2),
    ],
}  # fmt: skip


def made(name):
    torch.manual_seed(3)
    return sl.Network(*MAKE[name](), nn.Flatten(), nn.LazyLinear(3))


def ready(name):
    """A network whose lazy layer has its weights, the same in each process."""
    net, state = made(name), torch.random.get_rng_state()
    net.eval()(inputs(0))
    torch.random.set_rng_state(state)
    return net.train()


def inputs(rank):
    return torch.randn(T, B, C, 6, 6, generator=torch.Generator().manual_seed(rank))


def gave(net, rank, steps=2):
    """Gradients and buffers after some forward and backward passes; a second one raises where a gradient is missing."""
    for _ in range(steps):
        net.zero_grad()
        net(inputs(rank)).square().mean().backward()
    inside = getattr(net, "module", net)
    return [p.grad.tolist() for p in inside.parameters()], [b.tolist() for b in inside.buffers()]


def _worker(rank, meeting, queue):
    waiting.WORTH = 0
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {}
    for name in MAKE:
        net = nn.parallel.DistributedDataParallel(ready(name))
        found[name] = gave(net, rank)
        del net  # it holds the group, whose threads must end before the interpreter does
    if rank == 0:
        queue.put(found)
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "WORTH", 0)
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    processes = mp.start_processes(_worker, (tmp_path / "meeting", queue), nprocs=2, start_method="spawn", join=False)
    while not processes.join():  # raises what a worker raised, where waiting for its result would wait for ever
        pass
    found = queue.get()
    for name in MAKE:
        net = ready(name)
        net.fuse = False
        (first, buffers), (second, _) = (gave(copy.deepcopy(net), rank) for rank in range(2))
        for got, *both in zip(found[name][0], first, second, strict=True):
            wanted = torch.tensor(both).mean(0)
            torch.testing.assert_close(torch.tensor(got), wanted, atol=1e-6, rtol=1e-4, msg=lambda m: f"{name}: {m}")
        for got, wanted in zip(found[name][1], buffers, strict=True):  # those of process 0
            torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), atol=1e-6, rtol=1e-5)
    rows = sl.explain(ready("waiting norms"), inputs(0)).rows
    assert {row.path: row.backend for row in rows if row.module == "BatchNorm2d"} == {
        "0.norm": "joined", "0.norm_2": "alone",
    }  # fmt: skip

"""On a device that has no kernels, as an NPU, neurons run as loops there, with the numbers of the CPU.

The device is made for a whole process, so that all of this runs in one of its own, once.
"""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils import backend_registration

import spikeloom as sl
import stand_in

NPU = stand_in.NAME


def test_networks_run_on_a_device_without_kernels_as_on_the_cpu():
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"PyTorch {torch.__version__} cannot make a device in Python")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = os.pathsep.join([env.get("PYTHONPATH", ""), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nobody is warned of what cannot be had
    assert json.loads(done.stdout) == {
        "a whole sequence": True,
        "recordings": True,
        "gradients": True,
        "ran on the device": True,
        "states": [f"{NPU}:0"],
        "a stream": True,
        "prepared": False,
        "lengths": True,
        "repeat": True,
        "bits": True,
        "autocast": "torch.float32",
        "weights": True,
        "why": ["eager", f"Triton has no driver for {NPU}"],
        "forced": f"LIF cannot run on backend 'c': the input is on {NPU}:0, C kernels run on cpu",
        "mixed": "LIF: the given state 'v' is [3, 4, 6, 6] torch.float32 on cpu",
    }


def build(**options):
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), sl.LIF(v_threshold=0.3), nn.MaxPool2d(2), nn.Flatten()
    return sl.Network(*layers, nn.Linear(36, 5), sl.PLIF(tau=2.0, v_threshold=0.1), **options)


def same(on_npu, on_cpu):
    assert on_npu.device.type == NPU
    return torch.equal(on_npu.cpu(), on_cpu)


def refused(error, call):
    try:
        call()
    except error as told:
        return str(told)


def compare(ran):
    """What is compared, by name; the CPU's numbers are those of the loop."""
    cpu, npu, x = build(), build().to(NPU), torch.rand(6, 3, 2, 8, 8)
    options = dict(record=("2.v", "6.output"), return_state=True)
    with sl.backend("eager"):
        y, result = cpu(x, **options)
        y.mean().backward()
    z, seen = npu(x.to(NPU), **options)
    z.mean().backward()
    yield "a whole sequence", same(z, y) and y.mean().item() > 0.1
    yield "recordings", all(same(seen.record[name], value) for name, value in result.record.items())
    yield "gradients", all(same(q.grad, p.grad) for q, p in zip(npu.parameters(), cpu.parameters(), strict=True))
    yield "ran on the device", {"aten::convolution_overrideable", "aten::native_batch_norm"} <= {*ran}
    yield "states", sorted({str(v.device) for states in seen.state.values() if states for v in states.values()})
    cpu.eval()
    npu.eval()
    one, other = cpu.stream(), npu.stream()
    with torch.inference_mode(), sl.backend("eager"):
        wanted = [one(x_t) for x_t in x]
    with torch.inference_mode():
        yield "a stream", all(same(other(x_t.to(NPU)), y_t) for x_t, y_t in zip(x, wanted, strict=True))
    yield "prepared", other.prepared
    lengths = torch.tensor([6, 2, 3])
    with sl.backend("eager"):
        padded, repeated = cpu(x, lengths=lengths), cpu(x[0], repeat=3)
    yield "lengths", same(npu(x.to(NPU), lengths=lengths.to(NPU)), padded)
    yield "repeat", same(npu(x[0].to(NPU), repeat=3), repeated)
    yield "bits", same(build(spikes="packed").eval().to(NPU)(x.to(NPU)), build().eval()(x))
    with torch.autocast(NPU, dtype=torch.bfloat16):
        yield "autocast", str(npu(x.to(NPU), return_state=True)[1].state["2"]["v"].dtype)
    back = build()
    back.load_state_dict(npu.state_dict())
    yield "weights", torch.equal(back.eval()(x), cpu(x))
    row = sl.explain(npu, x.to(NPU)).rows[0]
    yield "why", [row.backend, row.reason]
    with sl.backend("c"):
        yield "forced", refused(sl.BackendError, lambda: npu(x.to(NPU)))
    yield "mixed", refused(ValueError, lambda: npu(x.to(NPU), state=result.state)).partition(", but")[0]


if __name__ == "__main__":
    logging.basicConfig()
    json.dump(dict(compare(stand_in.register())), sys.stdout)

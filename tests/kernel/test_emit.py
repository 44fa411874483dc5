"""The C of a kernel: a step is a function of one neuron, which other loops can call; the loops are texts."""

import ctypes
import re

import pytest

import spikeloom as sl
from spikeloom.kernel.c.emit import emit_backward, emit_forward
from spikeloom.kernel.c.loops import filled
from spikeloom.kernel.trace import trace
from spikeloom.kernel.variant import Variant
from spikeloom.native import build

try:
    build.ready()
except build.BuildError as missing:
    pytest.skip(f"no C kernels on this machine: {missing}", allow_module_level=True)


def called(source, name, fields, **values):
    """What the function ``name`` of a source returns, called with values by the names of its arguments."""
    arguments = re.search(rf"INLINE \w+ {name}\((.*?)\)", source).group(1).replace("const S ", "").split(", ")
    call = f"{name}({', '.join(f'in[{k}]' for k in range(len(arguments)))})"
    results = "".join(f" out[{k}] = {call}.{field};" for k, field in enumerate(fields))
    library = build.load(f"{source}\nvoid one(const S *in, S *out) {{{results} }}\n")
    out = (ctypes.c_double * len(fields))()
    library.one((ctypes.c_double * len(arguments))(*(values[a] for a in arguments)), out)
    return list(out)


@pytest.mark.parametrize(("threshold", "spike", "v"), [(1.0, 0.0, 0.9), (0.8, 1.0, 0.1)])
def test_a_step_by_hand(threshold, spike, v):
    """h = v + (x - (v - v_reset)) / tau = 0.5 + (2 - 0.4) / 4 = 0.9."""
    source = emit_forward(trace(sl.LIF()), Variant("float64", False, (), (), False))
    values = {"x_": 2.0, "v_": 0.5, "tau_": 4.0, "i2": 0.25, "v_threshold_": threshold, "v_reset_": 0.1}
    assert called(source, "step", ("y", "s0"), **values) == pytest.approx([spike, v])


def test_a_transposed_step_by_hand():
    """y = w = v + (x - v + v_leak) / tau of an LI: dx = (g_y + g_w) / tau, dv = (g_y + g_w) (1 - 1 / tau)."""
    program = trace(sl.LI())
    tau = program.inputs.index("tau")
    source = emit_backward(program, Variant("float64", False, (), (), False, (tau,), ("steps",)))
    values = {"x_": 2.0, "v_": 0.5, "tau_": 4.0, f"i{tau}": 0.25, "v_leak_": 0.1, "g_out_": 3.0, "g_v_": 5.0}
    kept = dict.fromkeys(re.findall(r"const S (u\d+)[,)]", source), (2.0 - 0.4) / 4.0)  # the quotient of the step
    found = called(source, "transposed", ("x0", "s0", f"p{tau}"), **values, **kept)
    assert found == pytest.approx([2.0, 6.0, -8.0 * 1.6 / 16.0])


def test_a_line_of_a_loop_stands_once_for_each_number():
    loop = "run(void) {\n  $STEP\n  v$s = w$s;\n  sum$wanted = 0;\n}"
    assert filled(loop, {"STEP": "step(v$s);"}, {"s": (0, 1), "wanted": ()}) == (
        "run(void) {\n  step(v0);\n  step(v1);\n  v0 = w0;\n  v1 = w1;\n}"
    )

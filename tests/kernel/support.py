"""Prints docs/support.md: what runs as a kernel, each neuron and surrogate run and compared with the loop.

``python tests/kernel/support.py > docs/support.md``
"""

import sys
import textwrap
from pathlib import Path

import torch

import spikeloom as sl

sys.path.append(str(Path(__file__).parents[1]))  # as a script; pytest has it there

from kernel import spec

COLUMNS = {
    "float32": {},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "static input": {"static": True},
    "lengths": {"lengths": True},
    "channels_last": {"layout": "channels_last"},
}
"""What each neuron and surrogate is run with."""


def loops(kind):
    """The columns in which a neuron or a surrogate runs as a loop; all others were compared with the loop."""
    found = []
    for column, options in COLUMNS.items():
        torch.manual_seed(0)
        try:
            spec.check({**spec.BASE, "neuron": "LIF", **kind, **options})
        except sl.BackendError:
            found.append(column)
    return found


TEXT = """# Support

What runs as a kernel on a CPU, forward and backward with all gradients. `python tests/kernel/support.py` prints this:
it runs each neuron, option and surrogate with {columns},
and compares it with the PyTorch loop. The same programs are printed for GPUs (see [kernels](kernels.md)), where every
one of them is compared in Triton's interpreter.

## Kernels in all of it

{neurons}

{surrogates}

Options and surrogates are those of a LIF. Besides, a LIF with `decay_input=False` ran, a Leaky with
`reset_delay=False`, and a neuron of the script's own with two states and an exponential. Modules of `sl.nn` run
the kernels of the neurons inside them.

## Exceptions

| | runs | where |
|---|---|---|
{exceptions}
| `MPBN` | as a kernel in evaluation, as a loop in training | in all of it |

Everywhere else the PyTorch loop runs: on devices that Triton does not drive, in `torch.func` transforms and
forward-mode differentiation, under `torch.export`, for tensor subclasses, and for what a kernel cannot hold (see
[kernels](kernels.md)). `torch.compile` sees one operator per neuron layer.
"""


def printed(found):
    """docs/support.md, of names and the columns in which each runs as a loop."""
    variants = [name for name in found if name == "Two" or " " in name]
    assert not any(found[name] for name in variants), "the text says that these run as kernels"
    named = {name: where for name, where in sorted(found.items()) if name not in variants}
    whole = [name for name, where in named.items() if not where]

    def listed(kind, names):
        return textwrap.fill(f"{kind}: {', '.join(f'`{n}`' for n in names)}.", 120)

    return TEXT.format(
        columns=", ".join(COLUMNS),
        neurons=listed("Neurons and options", [n for n in whole if n not in sl.surrogates()]),
        surrogates=listed("Surrogates", [n for n in whole if n in sl.surrogates()]),
        exceptions="\n".join(
            f"| `{name}` | as a loop | {'in all of it' if len(where) == len(COLUMNS) else ', '.join(where)} |"
            for name, where in named.items()
            if where
        ),
    )


if __name__ == "__main__":
    sys.stdout.write(printed({name: loops(kind) for name, kind in spec.rows()}))

"""Makes porting.npz beside it: what the peers' scripts in docs/porting.md train, and what comes out of it.

Run it by hand in the peers' environment:

    benchmarks/setup_peers.sh
    .peers/bin/python tests/reference/make_porting.py

Of each peer it stores the weights that its script saves, and the mean over time of the network's output for the 360
images that are held out. tests/test_porting.py loads these weights as the page says, and compares. Names of the peers
that the page's tables have are looked up too.
"""

import contextlib
import importlib
import os
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "porting.md"
SCRIPTS = re.compile(r"^### (\w+)\n.*?^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WHERE = {
    "SpikingJelly": (
        "",
        "functional",
        "layer",
        "encoding",
        "monitor",
        "neuron",
        "surrogate",
        "functional.conv_bn_fusion",
        "learning",
        "rnn",
    ),
    "snnTorch": ("", "spikegen", "utils", "functional", "functional.quant", "surrogate", "spikeplot", "backprop"),
}
PACKAGES = {"SpikingJelly": "spikingjelly.activation_based", "snnTorch": "snntorch"}


def outputs(name, made):
    """The mean over time of what the peer's network gives, as its script runs it, ``[360, 10]``."""
    net, x = made["model" if name == "SNNGrow" else "net"], made["x"][1437:]
    with torch.no_grad():
        if name == "snnTorch":
            return net(x)[0].mean(0)
        return net(x).mean(1) if name == "snetx" else net(x)


def trained():
    """Runs the scripts; the arrays to store."""
    store = {}
    for name, code in SCRIPTS.findall(PAGE.read_text()):
        made = {}
        exec(compile(code, f"{PAGE.name}, {name}", "exec"), made)
        for key, value in torch.load(f"{name.lower()}.pt").items():
            store[f"{name.lower()}/weights/{key}"] = np.asarray(value)
        store[f"{name.lower()}/outputs"] = outputs(name, made).numpy()
        store[f"{name.lower()}/version"] = np.array(version(name.lower()))
        print(name, version(name.lower()))
    return store


def unknown():
    """Names in the first column of the tables that no module of the peer has."""
    found = []
    for row in re.findall(r"^\| ((?:SpikingJelly|snnTorch) [^|]*)\|", PAGE.read_text(), re.MULTILINE):
        for part in re.split(r", (?=SpikingJelly |snnTorch |SNNGrow |snetx |norse )", row):
            peer = part.split()[0]
            modules = []
            for path in WHERE.get(peer, ()):
                with contextlib.suppress(ImportError):
                    modules.append(importlib.import_module(f"{PACKAGES[peer]}.{path}".rstrip(".")))
            for code in re.findall(r"`([^`]+)`", part) if modules else ():
                name = re.match(r"(?:\w+\.)*(\w+)(?=$|\()", code)
                if name and not any(hasattr(module, name[1]) for module in modules):
                    found.append(f"{peer} {code}")
    return found


def unnamed():
    """Public functions and classes of the modules that the page is to have in full, which it does not name."""
    text, found = PAGE.read_text(), []
    whole = {
        "SpikingJelly": ("functional", "layer", "encoding", "monitor"),
        "snnTorch": ("spikegen", "utils", "functional"),
    }
    for peer, paths in whole.items():
        for path in paths:
            with contextlib.suppress(ImportError):
                module = importlib.import_module(f"{PACKAGES[peer]}.{path}")
                own = [n for n, v in vars(module).items() if getattr(v, "__module__", "").startswith(module.__name__)]
                found += [f"{peer} {path}.{n}" for n in own if n[0] != "_" and not re.search(rf"\b{n}\b", text)]
    return found


if __name__ == "__main__":
    print("not on the page:", *unnamed(), sep="\n  ")
    print("not found in the peers, to be looked at by eye:", *unknown(), sep="\n  ")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.savez_compressed(HERE / "porting.npz", torch=torch.__version__, **trained())

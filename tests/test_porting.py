"""docs/porting.md: our scripts run, the peers' weights give the peers' spikes, and the names in its tables are there.

What the peers trained and gave is in tests/reference/porting.npz, which tests/reference/make_porting.py makes.
"""

import ast
import builtins
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import spikeloom as sl

PAGE = Path(__file__).parents[1] / "docs" / "porting.md"
GIVEN = Path(__file__).parent / "reference" / "porting.npz"
PEERS = ("spikingjelly", "snntorch", "snngrow", "snetx")


def test_scripts_run_and_weights_of_peers_give_their_outputs(run_blocks, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    monkeypatch.chdir(tmp_path)
    with np.load(GIVEN) as data:
        given = {name: torch.from_numpy(data[name]) for name in data.files if data[name].dtype.kind in "fi"}
    for peer in PEERS:
        start = f"{peer}/weights/"
        torch.save({n.removeprefix(start): w for n, w in given.items() if n.startswith(start)}, f"{peer}.pt")
    compared = []
    for code, namespace in run_blocks(PAGE):
        loaded = re.search(r'torch\.load\("(\w+)\.pt"\)', code)
        if loaded and loaded[1] in PEERS:
            mine, theirs = namespace["outputs"], given[f"{loaded[1]}/outputs"]
            # A spike more or less would change an output by 1/T of a weight, or by 1/T.
            torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)
            compared.append(loaded[1])
    assert compared == list(PEERS)


def test_each_script_of_ours_has_that_of_a_peer_before_it():
    text = PAGE.read_text()
    for peer, title in zip(PEERS, ("SpikingJelly", "snnTorch", "SNNGrow", "snetx"), strict=True):
        part = text[text.index(f"### {title}\n") :]
        theirs, ours = re.findall(r"^```py\w*\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)[:2]
        assert "torch.save(" in theirs
        assert f'"{peer}.pt"' in theirs
        stages = [[line.split(":")[0] for line in code.split("\n") if line.startswith("# ")] for code in (theirs, ours)]
        assert stages[0] == stages[1] == ["# data", "# model", "# training", "# evaluation", "# saving and loading"]
        assert len(ours.split("\n")) < len(theirs.split("\n"))


def test_the_names_in_the_tables_are_there():
    names = set(re.findall(r"\bsl\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", PAGE.read_text()))
    assert len(names) > 90

    def there(name):
        found = sl
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is not None

    others = {"LIFNode", "functional", "spikegen", "encode.rate", "loss.ce_rate_loss", "nn.Conv2d"}  # peers' names
    others.add("surrogate.X")  # any surrogate
    assert {name for name in names if not there(name)} == others


def parts():
    """The name of each peer, and the blocks of Python of its part of the page, ours and the one that loads weights."""
    text = PAGE.read_text()
    for peer, title in zip(PEERS, ("SpikingJelly", "snnTorch", "SNNGrow", "snetx"), strict=True):
        blocks = re.findall(r"^```python\n(.*?)^```$", text[text.index(f"### {title}\n") :], re.MULTILINE | re.DOTALL)
        yield peer, *blocks[:2]


def names(code, kind):
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}


def bound(code):
    """The names that a block binds: what it imports, assigns and defines."""
    tree = list(ast.walk(ast.parse(code)))
    imported = {(a.asname or a.name) for n in tree if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    return imported | names(code, ast.Store) | {n.name for n in tree if isinstance(n, ast.ClassDef | ast.FunctionDef)}


def test_a_block_of_weights_needs_only_the_script_before_it_and_no_block_needs_it():
    text = PAGE.read_text()
    for peer, script, weights in parts():
        assert f'torch.load("{peer}.pt")  # your own' in weights
        assert names(weights, ast.Load) <= bound(script) | bound(weights) | set(dir(builtins)), peer
    later = re.findall(r"^```python\n(.*?)^```$", text[text.index("## Truncated") :], re.MULTILINE | re.DOTALL)
    assert later
    known = {name for _, script, _ in parts() for name in bound(script)} | set(dir(builtins))
    for code in later:
        known |= bound(code)
        assert names(code, ast.Load) <= known


TABLE = sl.FewSpikeTable((4.0, 2.0), (4.0, 2.0), (4.0, 2.0))

# Values of what the peers' arguments are called in the table of neurons, and of those that mean another thing in a row.
ARGUMENTS = dict(
    sl=sl, nn=torch.nn, torch=torch, layer=torch.nn.Linear(3, 3), module=torch.nn.Linear(3, 3), neuron=sl.LIF(),
    x=torch.full((2, 3), 0.5), spike=torch.ones(2, 3), a=0.0, b=0.0, tau=2.0, init_tau=2.0, alpha=0.95, beta=0.9,
    v_c=0.8, a0=1.0, v_rest=-0.1, delta_T=1.0, theta_rh=0.8, tau_w=2.0, theta=(4.0, 2.0), h=(4.0, 2.0), d=(4.0, 2.0),
    T=4, K=4, F=3, H=4, W=4, R=1.0, C=5, D=5, i=3, o=4, n=2, m=3, k=2, p=0.5, c=8.0, t=1.0, l=0.0, u=0.0, split=1.0,
    inplane=3, features=3, omega=0.5, dt=1.0, time_step=1.0, delta_threshold=0.5, tau_mem_inv=0.5, v_leak=0.0,
    c_decay=0.5, v_decay=0.5, act_dim=2, dec_pop_dim=3, in_dim=3, v_th=1.0, learnable=True, x_min=0.0, x_max=1.0,
    r=2, reduction_t=2, reduction_c=2, kernel_size=3, kernel_size_t=2, kernel_size_c=1, channel=5,
)  # fmt: skip
IN_ROW = {"FewSpikeNode": dict(a=TABLE, b=TABLE), "state_quant": dict(b=4), "NeuNorm": dict(k=0.9)}


def test_what_the_table_of_neurons_says_of_ours_can_be_constructed():
    text = PAGE.read_text()
    rest = text[text.index("## Neurons\n") + 2 :]
    made = 0
    for row in re.findall(r"^\| .*$", rest[: rest.index("## ")], re.MULTILINE):
        first, *_, ours = row.split(" | ")
        special = next((given for name, given in IN_ROW.items() if name in first), {})
        for code in re.findall(r"`(sl\.[^`]*)`", ours):
            if "..." not in code:  # else it leaves to the reader what is to be given
                assert eval(code, {**ARGUMENTS, **special}) is not None, code
                made += 1
    assert made > 60


def test_the_row_of_izhikevich_fires_as_the_equation_there_by_hand():
    code = re.search(r"`(sl\.Izhikevich\([^`]*\))`", PAGE.read_text())[1]
    net = eval(code, dict(ARGUMENTS))
    # h = v + (x + (v + 0.1)(v - 0.8)) / 2 with x = 1: 0.46, 0.8648, 1.3961, which fires; then from 0 again
    spikes, _ = net.sequence(torch.ones(6, 1))
    assert spikes.flatten().tolist() == [0, 0, 1, 0, 0, 1]


def test_a_table_of_few_spikes_that_is_none_is_explained():
    with pytest.raises(
        TypeError, match=r"FewSpike: a table is FewSpikeTable\(theta, h, d\), of K floats each, got Tens"
    ):
        sl.FewSpike(torch.ones(3, 4))

"""docs/porting.md: our scripts run, the peers' weights give the peers' spikes, and the names in its tables are there.

What the peers trained and gave is in tests/reference/porting.npz, which tests/reference/make_porting.py makes.
"""

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

    others = {"LIFNode", "functional", "spikegen", "surrogate.X"}  # what comes of peers' names, and any surrogate
    assert {name for name in names if not there(name)} == others

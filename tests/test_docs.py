"""Every python block of README, CONTRIBUTING and docs runs; a text block right after it is its output."""

import re
from pathlib import Path

import pytest

import spikeloom as sl

ROOT = Path(__file__).parents[1]
FILES = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CHINESE = {ROOT / "README.zh.md", *(ROOT / "docs" / "zh").rglob("*.md")}  # their code is the originals': test_chinese
BLOCKS = [
    file
    for file in FILES  # test_porting, test_tutorials and test_chinese have the others
    if "```python" in file.read_text()
    and file.name != "porting.md"
    and file.parent.name != "tutorials"
    and file not in CHINESE
]


def support():
    """Names in the support matrix, which tests/kernel/support.py prints, and those that belong there."""
    listed, _, exceptions = (ROOT / "docs" / "support.md").read_text().partition("## Exceptions")
    kernels = set(re.findall(r"`([A-Z]\w+)`", listed))
    loops = set(re.findall(r"^\| `(\w+)`", exceptions, re.MULTILINE))
    single = {name.removeprefix("options.") for name in sl.neurons() if not name.startswith("nn.")}
    return kernels, loops, single | set(sl.surrogates())


def test_the_support_matrix_names_what_there_is():
    kernels, loops, named = support()
    assert kernels | loops <= named
    assert not kernels & loops
    assert loops == {"PoissonPass", "StochasticSpikeOperator", "MPBN"}  # two that draw numbers, one that normalises
    assert len(kernels) > 50


@pytest.mark.slow  # one that was just added gets its row when the matrix is printed again, before a release
def test_the_support_matrix_has_every_name():
    kernels, loops, named = support()
    assert named == kernels | loops


@pytest.mark.filterwarnings("ignore:`torch.jit")  # what torch.export imports
@pytest.mark.parametrize("file", BLOCKS, ids=lambda f: f.name)
def test_code_blocks_run_and_print_what_they_say(file, tmp_path, monkeypatch, run_blocks):
    monkeypatch.chdir(tmp_path)
    assert list(run_blocks(file))


def test_local_links_lead_somewhere():
    broken = []
    for file in FILES:
        prose = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", prose):
            if not (file.parent / target).exists():
                broken.append(f"{file.name}: {target}")
    assert not broken

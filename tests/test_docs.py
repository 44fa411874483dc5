"""Every python block of README, CONTRIBUTING and docs runs; a text block right after it is its output."""

import re
from pathlib import Path

import pytest

import spikeloom as sl

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    file
    for file in FILES  # test_porting and test_tutorials have the others
    if "```python" in file.read_text() and file.name != "porting.md" and file.parent.name != "tutorials"
]


def support():
    """Names in the support matrix, which tests/kernel/spec.py prints, and those that belong there."""
    text = (ROOT / "docs" / "support.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.split("\n") if line.startswith("| ")}
    single = {name.removeprefix("options.") for name in sl.neurons() if not name.startswith("nn.")} - {"MPBN"}
    return rows, single | set(sl.surrogates())


def test_the_support_matrix_names_what_there_is():
    rows, named = support()
    assert rows - named == {"", "LIF no decay", "Leaky now", "Two"}
    assert len(rows & named) > 50


@pytest.mark.slow  # one that was just added gets its row when the matrix is printed again, before a release
def test_the_support_matrix_has_a_row_for_every_name():
    rows, named = support()
    assert named <= rows


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

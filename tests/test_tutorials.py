"""Every tutorial runs, prints and draws what its page says, and its notebook is the one that the page makes."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

import spikeloom as sl

pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("make", ROOT / "docs" / "tutorials" / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)
PAGES = [pytest.param(page, id=page.name) for page in make.pages()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run a page in; the data stay where they are."""
    monkeypatch.setenv("SPIKELOOM_DATA", str(Path(os.environ.get("SPIKELOOM_DATA", "data")).resolve()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow][: not page.name.startswith("01")])
        for page in make.pages()
    ],
)
def test_a_page_does_what_it_says(page, folder):
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    pictures = 0
    try:
        for block, printed, figures in page.run():
            where = f"{page.file}:{block.line}"
            assert make.differs(block.printed, printed, roughly=block.language == "text roughly") is None, where
            assert len(figures) == len(block.alts), f"{where} draws {len(figures)} pictures, the page has others"
            for figure in figures:
                assert any(ax.has_data() for ax in figure.axes), f"{where} draws nothing"
                figure.canvas.draw()
            pictures += len(figures)
    except sl.data.DataError as missing:
        if " not found in " not in str(missing):
            raise
        pytest.skip(str(missing))
    assert pictures >= 2


@pytest.mark.parametrize("page", PAGES)
def test_the_form_of_a_page(page):
    text = page.text
    assert re.match(r"# [^\n]+\n\n" + re.escape(page.head()) + "\n\n", text)
    assert re.search(r"^!\[[^\]]+\]\(", text[: text.index("```python")], re.MULTILINE), "a picture comes first"
    assert re.search(r"^## Where next", text, re.MULTILINE)
    assert "<details>" in text
    assert 120 <= sum(map(bool, text.split("\n"))) <= 250, "lines that are not empty"
    assert not re.search(r"\b(simply|just)\b", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    alts = re.findall(r"!\[([^\]]*)\]\(", text)
    assert not any("\n" in alt for alt in alts), "Sphinx would join the words around the end of a line"
    assert all(len(alt.split()) >= 4 for alt in alts), "each picture has a text that says what is seen"
    left_out = re.findall(r"(?:<!-- .+ -->\n)?^```python no-run$", text, re.MULTILINE)
    assert len(left_out) <= 1
    assert all(block.startswith("<!--") for block in left_out), "a comment above says why a block is not run"
    others = {fence[1] for fence in make.FENCE.finditer(text)} - {
        "python",
        "python no-run",
        "text",
        "text roughly",
        "bash",
    }
    assert not others


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_those_of_the_page_and_small(page):
    drawn = sorted(int(file.stem) for file in (make.HERE / page.name).glob("*.png"))
    assert drawn == list(range(1, sum(len(block.alts) for block in page.blocks()) + 1))
    assert all(file.stat().st_size <= 1000 * make.KILOBYTES for file in (make.HERE / page.name).glob("*.png"))


def test_all_pictures_take_four_megabytes():
    assert sum(file.stat().st_size for file in make.HERE.rglob("*.png")) < 4e6


@pytest.mark.parametrize("page", PAGES)
def test_the_notebook_is_that_of_the_page(page):
    pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")
    assert (make.NOTEBOOKS / f"{page.name}.ipynb").read_text() == make.notebook(page)


def test_no_notebook_without_a_page():
    assert {file.stem for file in make.NOTEBOOKS.glob("*")} == {page.name for page in make.pages()}


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("loss 0.50, 12 spikes", "loss  0.59, 12 spikes\n", True),
        ("loss 0.50", "loss 0.61", False),
        ("loss 0.50", "less 0.50", False),
        ("loss -0.50", "loss 0.50", False),
        ("accuracy 91.0 %", "accuracy 93.9 %", True),
        ("accuracy 91.0 %", "accuracy 94.1 %", False),
        ("2 %", "4 %", True),
        ("1,000 of conv2", "1,150 of conv2", True),
        ("1,000 of conv2", "1,150 of conv1", False),
        ("[1, 28]", "[1, 28, 28]", False),
        ("0.0", "0.01", False),
    ],
)
def test_roughly_the_same(expected, printed, same):
    assert (make.differs(expected, printed, roughly=True) is None) == same
    assert make.differs(expected, expected + "\n", roughly=False) is None
    assert make.differs(expected, printed, roughly=False) is not None


SMALL = """# Small

A page of `spikeloom data fetch mnist`.

```python
from matplotlib import pyplot as plt

print(1 + 1)
fig, ax = plt.subplots(figsize=(2, 1))
line = ax.plot([1, 2])
```

```text
3
```

![A line that
rises](01-small/7.png)

![Gone](01-small/8.png)

```python
print("about", 10.0)
```

```text roughly
about 11.0
```

<!-- it never ends -->
```python no-run
while True: pass
```

<details>
<summary>Answer</summary>

```python
print("quiet")
```

</details>

[On](02-next.md).
"""


def test_what_is_printed_and_drawn_is_written_into_the_page(tmp_path, monkeypatch):
    pytest.importorskip("jupytext", reason="the extra 'docs' is not installed")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setattr(make, "HERE", tmp_path / "docs" / "tutorials")
    monkeypatch.setattr(make, "NOTEBOOKS", tmp_path / "docs" / "notebooks")
    file = make.HERE / "01-small.md"
    (make.HERE / "01-small").mkdir(parents=True)
    (make.HERE / "01-small" / "2.png").write_bytes(b"stale")
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/someone/thing"\n')
    file.write_text(SMALL)
    make.Page(file).write()
    colab = "https://colab.research.google.com/github/someone/thing/blob/main/docs/notebooks/01-small.ipynb"
    text = file.read_text()
    source = "https://github.com/someone/thing/blob/main/docs/tutorials/01-small.md"
    head = f"[Colab]({colab}) · [Notebook](../notebooks/01-small.ipynb) · [source]({source})"
    assert text.startswith(f"# Small\n\n{head}\n\nA page")
    assert "```text\n2\n```\n\n![A line that rises](01-small/1.png)\n\n```python\nprint" in text
    assert "```text roughly\nabout 11.0\n```" in text
    assert 'print("quiet")\n```\n\n```text\nquiet\n```' in text
    (picture,) = (make.HERE / "01-small").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    make.Page(file).write()
    assert file.read_text() == text
    book = nbformat.read(make.NOTEBOOKS / "01-small.ipynb", 4)
    cells = [(cell.cell_type, cell.source) for cell in book.cells]
    assert cells[0] == ("code", '%pip install -q "spikeloom[plot,demo]"\n!spikeloom data fetch mnist')
    assert cells[2][0] == "code"
    assert "plt.subplots" in cells[2][1]
    assert not any("1.png" in source for _, source in cells)
    assert any(kind == "markdown" and "quiet" in source and "</details>" in source for kind, source in cells)
    assert "[On](02-next.ipynb)." in cells[-1][1]
    assert len({cell.id for cell in book.cells}) == len(cells)

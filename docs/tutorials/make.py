"""Runs the tutorials and writes down what came of it: `make tutorials`, or python docs/tutorials/make.py 01 04

A page is plain Markdown. Its `python` blocks run in order, in one namespace, in a process of their own. After each one
stand its lines of output, as a `text` block, and the figures that it left open, as `NN-name/1.png` and so on:

- A `text` block has to be what is printed, to the letter. A `text roughly` block has the same words, and numbers within
  20 %; a number before ` %` may differ by 3 points. One that still agrees is left as it is.
- The text in `![...](NN-name/1.png)` is the author's and is kept, in one line; a picture without one is told of.
- `python no-run` is not run. A comment in the line above it says why, and a page has one at most.

`docs/notebooks/NN-name.ipynb` is made of the page. Its first cell installs, and fetches what the page names as
`spikeloom data fetch NAME`. What is inside `<details>` stays one cell there, so that it folds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parent / "notebooks"
BUDGET, LIMIT = 25, 40
"""CPU seconds that a page should take, and those from which on it fails."""
KILOBYTES = 60
"""The most that a picture may have."""

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"\s*^```(text|text roughly)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"^<details>.*?^</details>$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:\s?%)?")


class Block(NamedTuple):
    """A python block of a page, and what the page says comes of it."""

    code: str
    line: int  # of the page, from 0
    start: int  # what stands from here to `end` is its output
    end: int
    language: str  # of the block with what is printed
    printed: str
    alts: list[str]  # texts of its pictures


class Page:
    """A tutorial, `docs/tutorials/NN-name.md`."""

    def __init__(self, file: Path) -> None:
        self.file, self.name, self.text = file, file.stem, file.read_text(encoding="utf-8")
        self.picture = re.compile(rf"\s*^!\[([^\]]*)\]\({re.escape(self.name)}/\d+\.png\)$", re.MULTILINE)

    def blocks(self) -> Iterator[Block]:
        """The python blocks that run, in order."""
        for fence in FENCE.finditer(self.text):
            if fence[1] != "python":
                continue
            end, alts, language, printed = fence.end(), [], "text", ""
            if said := PRINTED.match(self.text, end):
                end, language, printed = said.end(), said[1], said[2]
            while shown := self.picture.match(self.text, end):
                end = shown.end()
                alts.append(" ".join(shown[1].split()))
            line = self.text[: fence.start(2)].count("\n")
            yield Block(fence[2], line, fence.end(), end, language, printed, alts)

    def run(self) -> Iterator[tuple[Block, str, list[Any]]]:
        """Runs the page block by block: the block, what it printed, the figures that it left open."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        namespace: dict[str, Any] = {"__name__": "__main__"}
        plt.close("all")
        with mpl.rc_context():
            for block in self.blocks():
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    exec(compile("\n" * block.line + block.code, str(self.file), "exec"), namespace)
                yield block, output.getvalue().rstrip(), [plt.figure(number) for number in plt.get_fignums()]
                plt.close("all")

    def head(self) -> str:
        """The links below the title."""
        links = [f"[Notebook](../notebooks/{self.name}.ipynb)"]
        project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        address = project.get("urls", {}).get("Repository", "")
        if address.startswith("https://github.com/"):  # Colab opens files of such a repository
            colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
            links.insert(0, f"[Colab]({colab}/blob/main/docs/notebooks/{self.name}.ipynb)")
            links.append(f"[source]({address}/blob/main/docs/tutorials/{self.name}.md)")
        return " · ".join(links)

    def write(self) -> str:
        """Runs the page, writes its text, its pictures and its notebook, and gives its line of the table."""
        began, text, pos, pictures, problems = time.perf_counter(), [], 0, [], []
        for block, printed, figures in self.run():
            text.append(self.text[pos : block.start])
            if block.language == "text roughly" and differs(block.printed, printed, roughly=True) is None:
                printed = block.printed.rstrip()
            if printed:
                text.append(f"\n\n```{block.language}\n{printed}\n```")
            for figure, alt in zip(figures, [*block.alts, *[""] * len(figures)], strict=False):
                pictures.append(png(figure))
                text.append(f"\n\n![{alt}]({self.name}/{len(pictures)}.png)")
                if not alt:
                    problems.append(f"picture {len(pictures)} has no text that says what is seen")
            pos = block.end
        self.text = "".join(text) + self.text[pos:]
        self.write_notebook()
        problems += self.write_pictures(pictures)
        seconds, wall, size = time.process_time(), time.perf_counter() - began, sum(map(len, pictures)) / 1000
        if seconds > LIMIT:
            problems.append(f"it takes {seconds:.0f} s of CPU time, at most {LIMIT} are allowed")
        over = f"  over {BUDGET} s" if seconds > BUDGET else ""
        line = f"{self.name:<28}{len(pictures):>9}{size:>8.0f}{seconds:>8.1f}{wall:>8.1f}{over}"
        return "\n  ".join([line, *problems])

    def write_notebook(self) -> None:
        """Writes the links below the title, and the notebook of the page as it stands."""
        title, rest = self.text.split("\n\n", 1)
        rest = re.sub(r"\A\[(Colab|Notebook)\][^\n]*\n\n", "", rest)
        self.text = f"{title}\n\n{self.head()}\n\n{rest}"
        self.file.write_text(self.text, encoding="utf-8")
        NOTEBOOKS.mkdir(exist_ok=True)
        (NOTEBOOKS / f"{self.name}.ipynb").write_text(notebook(self), encoding="utf-8")

    def write_pictures(self, pictures: list[bytes]) -> list[str]:
        """Writes the pictures into the page's folder and nothing else; gives those that are too large."""
        folder, problems = HERE / self.name, []
        for stale in folder.glob("*.png"):
            stale.unlink()
        for number, picture in enumerate(pictures, 1):
            folder.mkdir(exist_ok=True)
            (folder / f"{number}.png").write_bytes(picture)
            if len(picture) > 1000 * KILOBYTES:
                problems.append(f"picture {number} has {len(picture) / 1000:.0f} kB, at most {KILOBYTES} are allowed")
        return problems


def differs(expected: str, printed: str, *, roughly: bool) -> str | None:
    """How what was printed differs from what the page says, or None."""
    if not roughly:
        same = expected.strip() == printed.strip()
        return None if same else f"expected\n{expected.strip()}\ngot\n{printed.strip()}"
    words = [" ".join(NUMBER.sub("0", text).split()) for text in (expected, printed)]
    if words[0] != words[1]:
        return f"expected the words\n{words[0]}\ngot\n{words[1]}"
    for a, b in zip(NUMBER.findall(expected), NUMBER.findall(printed), strict=True):
        x, y = (float(number.rstrip(" %").replace(",", "")) for number in (a, b))
        if abs(x - y) > (3 if a.endswith("%") else 0.2 * abs(x)):
            return f"expected about {a}, got {b}, in\n{printed.strip()}"
    return None


def png(figure: Any) -> bytes:
    """The figure at twice its size, on a white card with round corners: what is outside of them is transparent."""
    from matplotlib.patches import FancyBboxPatch
    from PIL import Image

    width, height = figure.get_size_inches()
    shape = f"round,pad=0,rounding_size={0.08 / width}"
    card = FancyBboxPatch(
        (0, 0), 1, 1, boxstyle=shape, mutation_aspect=width / height, fc="white", ec="none", zorder=-9
    )
    card.set_transform(figure.transFigure)
    figure.add_artist(card)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=192, facecolor="none", metadata={"Software": None})
    picture, small = Image.open(drawn), io.BytesIO()
    picture.save(small, "png", optimize=True)
    if small.tell() > 1000 * KILOBYTES:  # 255 colours do, and one for what is outside
        small, outside = io.BytesIO(), picture.getchannel("A").point(lambda alpha: 255 * (alpha < 128))
        few = picture.convert("RGB").quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.putpalette([*few.getpalette(), 255, 255, 255])
        few.paste(255, mask=outside)
        few.save(small, "png", compress_level=9, transparency=255)
    return small.getvalue()


def notebook(page: Page) -> str:
    """The page as a notebook without outputs, with a first cell that installs. It is the same each time."""
    import jupytext
    import nbformat

    parts, pos = [], 0
    for block in page.blocks():  # a cell draws its own pictures; code in <details> is text there, and keeps them
        folded = page.text[: block.start].count("<details>") > page.text[: block.start].count("</details>")
        output = page.text[block.start : block.end]
        parts += [page.text[pos : block.start], output if folded else page.picture.sub("", output)]
        pos = block.end
    text = "".join(parts) + page.text[pos:]
    text = FOLDED.sub(r"<!-- #region -->\n\g<0>\n<!-- #endregion -->", text)
    text = text.replace(page.head(), f"[The page that this notebook is made of](../tutorials/{page.name}.md)", 1)
    text = re.sub(r"\]\((\d\d-[^/)]*)\.md", r"](\1.ipynb", text)
    text = re.sub(r"\]\((\d\d-[^/)]*/)", r"](../tutorials/\1", text)
    book = jupytext.reads(text, fmt="md")
    fetched = re.findall(r"`spikeloom data fetch ([\w-]+)`", page.text)
    first = [
        '%pip install -q "spikeloom[plot,demo]"',
        *(f"!spikeloom data fetch {name}" for name in dict.fromkeys(fetched)),
    ]
    book.cells.insert(0, nbformat.v4.new_code_cell("\n".join(first)))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    seen: Counter[str] = Counter()
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({})
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        seen[cell.id] += 1
        cell.id += f"-{seen[cell.id]}" if seen[cell.id] > 1 else ""
    book.nbformat, book.nbformat_minor = 4, 5
    nbformat.validate(book)
    written: str = nbformat.writes(book)
    return written + "\n"


def pages(names: list[str] | None = None) -> list[Page]:
    """All tutorials in order, or those whose names begin so."""
    found = [Page(file) for file in sorted(HERE.glob("[0-9][0-9]-*.md"))]
    return [page for page in found if not names or any(page.name.startswith(name) for name in names)]


def child(name: str) -> None:
    """Runs one page in this process, in a folder that is gone afterwards."""
    os.environ["SPIKELOOM_DATA"] = str(Path(os.environ.get("SPIKELOOM_DATA", "data")).resolve())
    warnings.simplefilter("error")
    (page,) = pages([name])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        print(page.write())


def main() -> int:
    """Runs the pages, two at a time, and prints what each took."""
    parser = argparse.ArgumentParser(description="Run the tutorials and write their outputs, pictures and notebooks.")
    parser.add_argument(
        "pages", nargs="*", help="how the names of the pages begin, such as 01; all of them if not given"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many run at a time")
    parser.add_argument("--notebooks", action="store_true", help="run nothing, write links and notebooks alone")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.pages[0])
        return 0
    if given.notebooks:
        for page in pages(given.pages):
            page.write_notebook()
        return 0
    # threads that wait for each other's cores would count as time of the pages
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    print(f"{'page':<28}{'pictures':>9}{'kB':>8}{'CPU s':>8}{'s':>8}", flush=True)

    def run(page: Page) -> bool:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", page.name]
        env = {"OMP_NUM_THREADS": threads, **os.environ}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        print(done.stdout.rstrip() or f"{page.name}\n{done.stderr.rstrip()}", flush=True)
        return done.returncode == 0 and "\n  " not in done.stdout

    with ThreadPoolExecutor(given.jobs) as pool:
        return 0 if all(list(pool.map(run, pages(given.pages)))) else 1


if __name__ == "__main__":
    sys.exit(main())

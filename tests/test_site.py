"""The site: every public name has one page, every page is in a menu, headings are in order, pictures are described."""

import ast
import doctest
import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path

import pytest

import spikeloom as sl

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS / "_ext"))
site = pytest.importorskip("spikeloom_docs", reason="the extra 'docs' is not installed")
pages, public = site.pages, site.public

WRITTEN = [*sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@pytest.fixture(scope="module")
def generated():
    return pages.pages()


def all_lists():
    """Every ``__all__`` in the source below the package, of modules that a user reaches, read without importing."""
    found = {}
    for file in (ROOT / "src" / "spikeloom").rglob("*.py"):
        path = file.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                found[path] = importlib.import_module(path)
    return found


def test_every_public_name_has_one_page(generated):
    """Modules named in a public ``__all__`` are public too; the lists of packages below are the package's own."""
    private = ("spikeloom.core", "spikeloom.kernel", "spikeloom.native", "spikeloom.observe", "spikeloom.spikes")
    documented = re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", "\n".join(generated.values()), re.MULTILINE)
    assert len(documented) == len(set(documented)) > 350
    objects = {id(e.value) for e in public.entries().values()}
    for path, module in all_lists().items():
        if (path.startswith(private) and path != "spikeloom.observe.memory") or ".recipes." in path:
            continue
        for name in module.__all__:
            value = getattr(module, name)
            if not isinstance(value, type(sys)):
                assert id(value) in objects, f"{path}.{name} has no page"


def test_pages_have_public_names(generated):
    """The page of a name is that by which it is imported, whatever file it is defined in."""
    assert ".. autoclass:: spikeloom.Network\n" in generated["reference/sl/sl.Network.rst"]
    assert generated["reference/neurons/sl.LIF.rst"].startswith("sl.LIF\n======\n")
    assert "``sl.data.events.read_events``" in generated["reference/data/sl.data.read_events.rst"]
    assert {"reference/models/sl.models.Info.rst", "reference/models/sl.models.info-function.rst"} <= generated.keys()
    assert len({path.casefold() for path in generated}) == len(generated)
    assert ".. autoclass:: spikeloom.core.taps.Taps\n" in generated["reference/sl/sl.taps.rst"]  # what it returns


def test_pages_say_what_others_call_it_and_how_it_runs(generated):
    page = generated["reference/neurons/sl.LIF.rst"]
    assert "SpikingJelly ``LIFNode(tau, decay_input=False)``" in page
    assert "It runs as a kernel in all that" in page
    assert "``straight_through_estimator``" in generated["reference/surrogate/sl.surrogate.StraightThrough.rst"]
    assert "It runs as a loop: in all of it" in generated["reference/surrogate/sl.surrogate.PoissonPass.rst"]


def test_pages_have_examples_that_run(generated):
    """Of the docstring, of a page whose blocks the tests run, or, of a surrogate, how a neuron is given it."""
    assert "From :doc:`/events`" in generated["reference/data.events/sl.data.events.Flip.rst"]
    chosen = re.findall(r"neuron = (sl\.LIF\(surrogate=(sl\.surrogate\.\w+)\(\)\))", "\n".join(generated.values()))
    assert len(chosen) > 20
    for code, kind in chosen:
        assert type(eval(code).surrogate) is eval(kind)


WITHOUT_EXAMPLE: dict[str, str] = {}
"""Public classes and functions whose docstring cannot have an example that runs, with the reason."""


def runs(text):
    """Whether a text has a doctest of which some line is run and gives something to compare."""
    return any(e.want and not e.options.get(doctest.SKIP) for e in doctest.DocTestParser().get_examples(text))


def test_every_public_class_and_function_has_an_example_that_runs():
    """A doctest of its own docstring with a result, or a block of at most twenty lines of a page that names it, which
    test_docs.py runs. Exceptions and data have none: what raises them, or takes them, does."""
    found = pages.gather().examples
    entries = [entry for entry in public.entries().values() if entry.kind in ("class", "function")]
    assert len(entries) > 300
    without = {e.name for e in entries if e.name not in found and not runs(inspect.cleandoc(e.value.__doc__ or ""))}
    assert without == WITHOUT_EXAMPLE.keys()


def test_what_counts_as_an_example():
    assert runs(">>> 1 + 1\n2")
    assert not runs("Text, and ``>>>`` in it.")
    assert not runs(">>> x = 1")
    assert not runs(">>> f()  # doctest: +SKIP\n2")


def test_markdown_becomes_restructured_text():
    assert pages.restructured("snnTorch `Leaky(beta)` *") == "snnTorch ``Leaky(beta)``"
    assert pages.restructured("[spikes](spikes.md) of `a`s, 2 * b_") == r"spikes of ``a``\ s, 2 \* b\_"
    assert pages.rows("| there | equation there | here |\n|---|---|---|\n| `a\\|b` | x | `sl.LIF` |\n\n| c | d |") == [
        ("`a|b`", "`sl.LIF`")
    ]
    assert pages.short("One: two. Three.") == "One: two"
    assert pages.short("A ``b. c`` d::") == "A ``b. c`` d"


def test_every_page_is_in_a_menu(generated):
    """Generated pages by those of modules, written ones by toctrees; findings by a link of the explanation alone."""
    listed = set(re.findall(r"^   /(\S+)$", "\n".join(generated.values()), re.MULTILINE))
    assert {path.removesuffix(".rst") for path in generated if path.endswith(".rst")} == listed
    written = {file.relative_to(DOCS).with_suffix("").as_posix() for file in DOCS.rglob("*.md")}
    named = set()
    for file in DOCS.rglob("*.md"):
        folder = file.parent.relative_to(DOCS)
        for block in re.findall(r"^```\{(?:toctree|listed)\}\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL):
            for entry in block.split("\n"):
                if entry and not entry.startswith(":"):
                    named |= {f.relative_to(DOCS).with_suffix("").as_posix() for f in DOCS.glob(f"{folder}/{entry}.md")}
    assert written - named == {"index", "findings"}
    assert "](findings.md)" in (DOCS / "explanation.md").read_text()


@pytest.mark.parametrize("file", WRITTEN, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_headings_are_in_order_and_pictures_are_described(file):
    text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    levels = [len(mark) for mark in re.findall(r"^(#+) ", text, re.MULTILINE)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "a level is left out"
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text):
        said = len(re.findall("[\u3400-\u9fff]", words)) / 3 or len(words.split())  # some three characters a word
        assert said >= 3, f"{target} needs a text for those who do not see it"


def test_generated_pictures_exist_and_are_described(generated):
    for path, text in generated.items():
        for picture, words in re.findall(r"^\.\. image:: /(\S+)\n(?:   :alt: (.*))?", text, re.MULTILINE):
            assert (DOCS / picture).is_file(), path
            assert len(words.split()) >= 3, path


def test_every_neuron_surrogate_and_encoder_has_a_picture():
    """``python docs/gallery/responses.py NAME`` draws one that is missing; what cannot be drawn says why there."""
    sys.path.append(str(DOCS / "gallery"))
    responses = importlib.import_module("responses")
    drawn = {file.stem for file in responses.HERE.glob("*.png")}
    assert drawn == set(responses.names())
    assert not drawn & responses.UNDRAWN.keys()
    assert sum(file.stat().st_size for file in responses.HERE.glob("*.png")) < 2_000_000
    assert [float(line.get_ydata().max()) for line in responses.picture("surrogate.ATan").axes[0].lines[1:2]] == [1.0]


def test_the_glossary_has_a_line_for_each_term_in_order():
    text = (DOCS / "glossary.md").read_text()
    terms = re.findall(r"^(\S.*)\n  (\S.*)\n", text.partition("```{glossary}\n")[2], re.MULTILINE)
    assert [term for term, _ in terms] == sorted((term for term, _ in terms), key=str.casefold)
    assert len(terms) >= 40
    assert text.count("\n  ") == len(terms)


def test_types_of_pages():
    """Every neuron, surrogate and encoder is public, with a line of its own."""
    entries = public.entries()
    assert {name for name in sl.neurons() if "." not in name} <= entries.keys()
    assert {f"surrogate.{name}" for name in sl.surrogates()} <= entries.keys()
    assert all(public.documentation(entry) for entry in entries.values())


def test_arguments_are_said_where_a_docstring_refers_to_another_class():
    """Through two classes; what the other class does not name, and what no class is, stays."""

    class Base:
        """Base.

        Args:
            reset: hard
                or soft.
            strict: which.
        """

    class Middle:
        """Middle.

        Args:
            v: a float.
            reset, strict: see :class:`Base`.
        """

    lines = ["Last.", "", "Args:", "    v, w: see :class:`Middle`. Rests at 0.", "    strict: see :class:`Middle`.",
             "    x: see :class:`Other`.", "", "More."]  # fmt: skip
    found = site.arguments.spelled_out(lines, {"Base": Base, "Middle": Middle}.get)
    assert found == ["Last.", "", "Args:", "    v: a float. Rests at 0.", "    w: see :class:`Middle`. Rests at 0.",
                     "    strict: which.", "    x: see :class:`Other`.", "", "More."]  # fmt: skip
    assert site.arguments.spelled_out(["    reset, strict: see :class:`Base`."], {"Base": Base}.get) == [
        "    reset, strict: see :class:`Base`."
    ]
    lines = ["Args:", "    reset: see :class:`Middle`."]
    assert site.arguments.spelled_out(lines, {"Base": Base, "Middle": Middle}.get)[1] == "    reset: hard or soft."

"""The text of the reference: a page for each public object, one for each module, and the list of modules.

``pages()`` computes all of it; the extension writes it where Sphinx reads it. What stands on a page comes from the
package (``public.py``), docs/porting.md, docs/support.md and the pictures that docs/gallery/draw.py has drawn.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import spikeloom as sl
from spikeloom import _peers

from . import public
from .public import Entry

DOCS = Path(__file__).parents[2]
RESPONSES = "gallery/responses"
TITLES = {"": "Networks, kernels, state", "neurons": "Neurons"}
PACKAGE = "Names of the package itself: networks, streams, kernels, recordings"
ORDER = (
    "",
    "neurons",
    "options",
    "surrogate",
    "nn",
    "encode",
    "decode",
    "loss",
    "metrics",
    "learn",
    "models",
    "convert",
)
"""Modules that come first in the list, in this order; all others follow by name."""
DRAWN = {
    "neurons": "The first state of {} and its output, for a step, a ramp and noise",
    "surrogate": "Derivative and primitive of {}",
    "encode": "Spikes made by {}, neurons from bottom to top, steps from left to right",
    "plot": "An example of what {} draws",
}
"""Alternative texts of drawn responses."""


@dataclass
class Context:
    """What pages say of objects that the package itself does not."""

    peers: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """(there, here) by our names: rows of the tables of docs/porting.md, and what errors tell."""
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The shortest block of a page that uses a name, and the page; the tests run all of them."""
    mentions: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Pages that speak of a name, the one that does most often first."""
    kernels: dict[str, str] = field(default_factory=dict)
    """What docs/support.md says of neurons, options and surrogates by their class names."""


def pages() -> dict[str, str]:
    """Every generated file by its path below docs/: reStructuredText."""
    entries, context = public.entries(), gather()
    modules = {"": sl, "neurons": sl.neuron, **public.shelves()}
    written = {f"{docname(e, entries)}.rst": page(e, context) for e in entries.values()}
    for shelf, module in modules.items():
        written[f"{index(shelf)}.rst"] = shelf_page(shelf, module, entries)
    written["reference/modules.txt"] = modules_list(modules)
    return written


def docname(entry: Entry, entries: dict[str, Entry]) -> str:
    """Where the page of an object lies. Names that differ in case alone, such as ``Info`` and ``info``, get files that
    differ in more, for the sake of file systems that do not tell them apart."""
    twins = [n for n in entries if n.casefold() == entry.name.casefold() and n != entry.name]
    twin = f"-{entry.kind}" if twins and entry.kind != "class" else ""
    return f"reference/{entry.shelf or 'sl'}/sl.{entry.name}{twin}"


def index(shelf: str) -> str:
    """Where the page of a module lies."""
    return f"reference/{shelf or 'sl'}/index"


def gather() -> Context:
    """Reads docs/*.md."""
    context = Context()
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for file in sorted(DOCS.glob("*.md")):
        text = file.read_text()
        if file.stem == "porting":
            for there, here in rows(text):
                for name in dict.fromkeys(re.findall(r"`sl\.([A-Za-z_][\w.]*\w)", here)):
                    context.peers[name].append((there, here))
        elif file.stem not in ("reference", "gallery", "index", "findings", "support"):
            for name in re.findall(r"\bsl\.([A-Za-z_][\w.]*\w|\w+)", text):
                counts[name][file.stem] = counts[name].get(file.stem, 0) + 1
    for name, files in counts.items():
        context.mentions[name] = sorted(files, key=lambda f: (-files[f], f))
    for there, here in _peers.NAMES.items():
        name = re.match(r"sl\.([A-Za-z_][\w.]*\w)", here)
        if name and not any(there in row for row, _ in context.peers[name[1]]):
            context.peers[name[1]].append((f"`{there}`", re.sub(r"\bsl\.[\w.]+(\([^)]*\))?", r"`\g<0>`", here)))
    context.examples = examples([f for folder in ("", "tutorials") for f in sorted((DOCS / folder).glob("*.md"))])
    context.kernels = kernels((DOCS / "support.md").read_text())
    return context


def examples(files: list[Path]) -> dict[str, tuple[str, str]]:
    """For each name the shortest python block that uses it, of at most twenty lines, and its page."""
    blocks = [
        (code, file.relative_to(DOCS).with_suffix("").as_posix())
        for file in files
        for code in re.findall(r"^```python\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
        if code.count("\n") <= 20
    ]
    blocks.sort(key=lambda block: len(block[0]))
    words = [{*re.findall(r"\w+(?:\.\w+)*", code), *re.findall(r"\w+", code)} for code, _ in blocks]
    last = Counter(name.rpartition(".")[2] for name in public.entries())
    found = {}
    for name in public.entries():
        module, _, short_name = name.rpartition(".")
        written = {f"sl.{name}", f"{module.rpartition('.')[2]}.{short_name}" if module else f"sl.{name}"}
        if last[short_name] == 1 and short_name[0].isupper():
            written.add(short_name)  # imported by its name
        found[name] = next((block for block, used in zip(blocks, words, strict=True) if used & written), None)
    return {name: block for name, block in found.items() if block}


def rows(text: str) -> list[tuple[str, str]]:
    """(there, here) of each row of tables in Markdown whose head begins with "there" and ends with "here"."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == "there":
            inside = cells[-1] == "here"
        elif inside and not cells[0].startswith("---"):
            found.append((cells[0], cells[-1]))
    return found


def kernels(text: str) -> dict[str, str]:
    """What docs/support.md says of each name in it."""
    everywhere = "as a kernel in all that :doc:`the support matrix </support>` lists"
    found = dict.fromkeys(re.findall(r"`([A-Z]\w*)`", text.partition("## Exceptions")[0]), everywhere)
    for line in text.partition("## Exceptions")[2].splitlines():
        cells = [c.strip().strip("`") for c in line.split("|")[1:-1]]
        if cells and cells[0].isidentifier():
            found[cells[0]] = f"{cells[1]}: {cells[2]} (see :doc:`support </support>`)"
    return found


def restructured(cell: str) -> str:
    """Inline Markdown as reStructuredText: code, links (as their words) and escapes; a closing ``*`` is dropped."""
    cell = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", cell.removesuffix(" *").replace("` *", "`"))
    out = ""
    for part in re.split(r"(`[^`]+`)", cell):
        if part.startswith("`"):
            out += f"``{part[1:-1]}``"
        else:
            out += ("\\ " if out and part[:1].isalnum() else "") + re.sub(r"([*_|\\])", r"\\\1", part)
    return out


def title(text: str, mark: str = "=") -> str:
    return f"{text}\n{mark * len(text)}\n"


def table(lines: Sequence[tuple[str, ...]], head: tuple[str, ...], widths: str) -> str:
    """A list-table."""
    out = ["", ".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", "   :class: names", ""]
    for row in [head, *lines]:
        out += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join([*out, ""])


def page(entry: Entry, context: Context) -> str:
    """The page of an object."""
    return "\n".join(
        part
        for part in (
            title(f"sl.{entry.name}"),
            also(entry),
            picture(entry),
            directive(entry.path, entry),
            *(directive(f"{r.__module__}.{r.__qualname__}", None) for r in entry.results),
            example(entry, context),
            source(entry),
            kernel_line(entry, context),
            elsewhere(entry, context),
            read_on(entry, context),
        )
        if part
    )


def also(entry: Entry) -> str:
    """The other names."""
    return f"Also {', '.join(f'``sl.{name}``' for name in entry.aliases)}.\n" if entry.aliases else ""


def picture(entry: Entry) -> str:
    """The drawn response, if there is one, or what a function of ``sl.plot`` draws."""
    last = entry.name.rpartition(".")[2]
    files = [f"{RESPONSES}/{entry.name}.png", f"gallery/{entry.shelf}-{last}.png", f"gallery/{entry.shelf}-{last}.gif"]
    file = next((f for f in files if (DOCS / f).exists()), None)
    what = DRAWN.get(entry.shelf, DRAWN["neurons"]).format(f"sl.{entry.name}")
    return f".. image:: /{file}\n   :alt: {what}\n   :class: response\n" if file else ""


def directive(path: str, entry: Entry | None) -> str:
    """What makes Sphinx read the object."""
    if entry is None or entry.kind in ("class", "exception"):
        hidden = [n for n, member in vars(entry.value).items() if restated(entry.value, n, member)] if entry else []
        exclude = f"   :exclude-members: {', '.join(hidden)}\n" if hidden else ""
        inherits = "   :show-inheritance:\n" if entry and entry.value.__bases__ != (object,) else ""
        return f".. auto{entry.kind if entry else 'class'}:: {path}\n   :members:\n{inherits}{exclude}"
    if entry.kind == "function":
        return f".. autofunction:: {path}\n"
    text = "\n".join(f"   {line}" for line in public.documentation(entry).splitlines())
    listing = ""
    if isinstance(entry.value, dict):
        listing = "   Its keys: " + ", ".join(f"``{key}``" for key in entry.value) + ".\n"
    elif isinstance(entry.value, str):
        listing = f"   It is ``{entry.value!r}``.\n"
    return f".. py:data:: {path}\n\n{text}\n\n{listing}"


def example(entry: Entry, context: Context) -> str:
    """A block of another page that uses it, where its docstring has none; of a surrogate always, how it is chosen."""
    chosen = entry.name.removeprefix("surrogate.") in sl.surrogates().keys() - {"Custom"}
    if entry.kind == "data" or (">>>" in public.documentation(entry) and not chosen):
        return ""
    if entry.name in context.examples:
        code, where = context.examples[entry.name]
        return f".. rubric:: Example\n\nFrom :doc:`/{where}`:\n\n{block(code)}"
    if chosen:
        return f".. rubric:: Example\n\n{block(f'neuron = sl.LIF(surrogate=sl.{entry.name}())')}"
    return ""


def block(code: str) -> str:
    """A block of code."""
    lines = "\n".join(f"   {line}".rstrip() for line in code.splitlines())
    return f".. code-block:: python\n\n{lines}\n"


def restated(value: type, name: str, member: object) -> bool:
    """Whether a member of a class only gives another value to what a base declares, such as ``paper``, or has no
    docstring but torch's."""
    if name.startswith("_"):
        return False
    if inspect.isfunction(member):
        of_torch = (vars(base) for base in value.__mro__ if not base.__module__.startswith("spikeloom"))
        return not member.__doc__ and any(name in members for members in of_torch)
    if inspect.isroutine(member) or isinstance(member, property):
        return False
    return any(name in vars(base) or name in vars(base).get("__annotations__", {}) for base in value.__mro__[1:])


def source(entry: Entry) -> str:
    """The paper that describes it."""
    paper = getattr(entry.value, "paper", "")
    return f".. rubric:: Source\n\n{paper}\n" if isinstance(paper, str) and paper else ""


def kernel_line(entry: Entry, context: Context) -> str:
    """How kernels run a neuron, an option or a surrogate."""
    says = (
        context.kernels.get(entry.name.rpartition(".")[2]) if entry.shelf in ("neurons", "options", "surrogate") else ""
    )
    return f".. rubric:: Kernels\n\n{'It runs ' + says}.\n" if says else ""


def elsewhere(entry: Entry, context: Context) -> str:
    """Names in other frameworks."""
    found = [row for name in (entry.name, *entry.aliases) for row in context.peers.get(name, ())]
    if not found:
        return ""
    lines = list(dict.fromkeys((restructured(there), restructured(here)) for there, here in found))
    return (
        ".. rubric:: In other frameworks\n"
        + table(lines, ("there", "here"), "50 50")
        + "\n:doc:`/porting` has all names.\n"
    )


def read_on(entry: Entry, context: Context) -> str:
    """The pages that speak of it."""
    files = context.mentions.get(entry.name, [])[:4]
    return f".. rubric:: Read on\n\n{', '.join(f':doc:`/{f}`' for f in files)}\n" if files else ""


def shelf_page(shelf: str, module: ModuleType, entries: dict[str, Entry]) -> str:
    """The page of a module: what it is, its names with a line each; names that are at home elsewhere lead there."""
    if shelf == "":
        named = [e for e in entries.values() if e.shelf == ""]
        text = "Names of the package itself, for ``import spikeloom as sl``. :doc:`../neurons/index` are there too.\n"
    else:
        listed = {f"{shelf}.{n}" for n in public.listed(module)}
        named = [e for e in entries.values() if e.shelf == shelf or listed & set(e.aliases)]
        text = (inspect.getdoc(module) or "") + "\n"
    module_directive = f".. py:module:: {module.__name__}\n" if shelf != "" else ".. py:module:: spikeloom\n"
    lines = [
        (f":doc:`sl.{e.name} </{docname(e, entries)}>`", short(public.summary(public.documentation(e)))) for e in named
    ]
    own = [docname(e, entries) for e in named if e.shelf == shelf]
    toctree = "\n".join([".. toctree::", "   :hidden:", "", *(f"   /{d}" for d in own), ""])
    heading = TITLES.get(shelf, f"sl.{shelf}")
    return "\n".join([title(heading), module_directive, text, table(lines, ("name", "what it is"), "35 65"), toctree])


def short(text: str) -> str:
    """The first sentence of a paragraph, unless that would cut markup."""
    first = text.partition(". ")[0]
    whole = first.replace("``", "").count("`") % 2 == 0 == first.count("``") % 2 and first.count("(") == first.count(
        ")"
    )
    return (first if whole else text).rstrip(".:")


def modules_list(modules: dict[str, ModuleType]) -> str:
    """The list of modules on the page of the reference."""
    names = [*ORDER, *sorted(set(modules) - set(ORDER))]
    lines = []
    for name in names:
        what = public.summary(modules[name].__doc__ or "").partition(". ")[0].rstrip(".") if name else PACKAGE
        what = re.sub(r":\w+:`(\w+)`", r"``\1``", what)  # outside its module such a name would lead nowhere
        lines.append((f":doc:`{TITLES.get(name, f'sl.{name}')} </{index(name)}>`", what))
    toctree = "\n".join([".. toctree::", "   :hidden:", "", *(f"   /{index(name)}" for name in names), ""])
    return table(lines, ("module", "what it has"), "30 70") + "\n" + toctree

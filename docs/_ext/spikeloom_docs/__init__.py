"""Sphinx extension: the generated reference, menus that open where the reader is, two languages, text for tools."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from docutils.nodes import Element, Node
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree
from sphinx.environment import BuildEnvironment
from sphinx.util.inspect import stringify_signature
from sphinx.util.matching import patfilter

from . import arguments, pages, public

CHINESE = "zh/"


class Listed(TocTree):
    """A toctree of patterns, of which those that match nothing are left out, so that pages come in any order."""

    def run(self) -> list[Node]:
        folder = self.env.docname.rpartition("/")[0]
        there = [p for p in self.content if patfilter(self.env.found_docs, f"{folder}/{p}".lstrip("/"))]
        if not there:
            return []
        self.options["glob"] = None
        self.content = StringList(there, self.env.docname)
        return super().run()


def write_pages(app: Sphinx) -> None:
    """Writes the reference below docs/, only files that have changed, and removes those of what is no longer public."""
    wanted = pages.pages()
    for path, text in wanted.items():
        file = app.srcdir / path
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    for file in (app.srcdir / "reference").rglob("*.*"):
        if file.is_file() and file.relative_to(app.srcdir).as_posix() not in wanted:
            file.unlink()


def set_apart(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Takes the pages of ``outside_menu`` out of the check that every page is in a menu."""
    for docname in app.config.outside_menu:
        env.metadata[docname]["orphan"] = "true"
    return []


def public_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    """The nearest public bases, linked to their pages; those of other packages as plain words."""
    known = {e.value: f":py:class:`sl.{e.name} <{e.path}>`" for e in public.entries().values() if e.kind == "class"}
    shown = []
    for base in bases:
        kind = getattr(base, "__origin__", base)  # Protocol[T]
        mro = getattr(kind, "__mro__", ())[:-1]  # typing.NamedTuple has none
        near = next((b for b in mro if b in known or not b.__module__.startswith("spikeloom")), None)
        if near is not None:
            shown.append(known.get(near, f"``{near.__module__.partition('.')[0]}.{near.__qualname__}``"))
    bases[:] = list(dict.fromkeys(shown)) or ["``object``"]


def own_signature(
    app: Sphinx, what: str, name: str, obj: object, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """What the constructor of a class takes, where its metaclass would say ``(*args, **kwargs)``."""
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    taken = inspect.signature(obj.__init__)  # type: ignore[misc]  # of the class itself
    parameters = list(taken.parameters.values())[1:]
    return stringify_signature(taken.replace(parameters=parameters), show_annotation=False), None


def found_elsewhere(app: Sphinx, env: BuildEnvironment, node: Element, contnode: Element) -> Element | None:
    """Leads a name in a docstring to its page. Docstrings name things as the code beside them does, and methods of
    bases as if they were the class's own; pages have the public name."""
    if node.get("refdomain") != "py":
        return None
    domain, target = env.domains.python_domain, node["reftarget"]
    owner = public.named(node.get("py:class") or "", "")
    for base in owner.value.__mro__ if owner and owner.kind == "class" else ():
        home = public.named(base.__qualname__, base.__module__)
        if home and f"{home.path}.{target}" in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"{home.path}.{target}", node, contnode)
    entry = public.named(target, node.get("py:module") or "")
    if entry is None:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", entry.path, node, contnode)


def say_arguments(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Says of each argument what another class, which the docstring refers to, says of it."""

    def find(target: str) -> Any:
        entry = public.named(target, getattr(obj, "__module__", ""))
        return entry and entry.value

    lines[:] = arguments.spelled_out(lines, find)


def words_first(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Puts "The shape: [T, B]" together again, of which napoleon makes a type "The shape"."""
    found = next((i for i, line in enumerate(lines) if line.startswith(":type: ")), None)
    if found is not None and what in ("attribute", "property", "data"):
        lines[0] = f"{lines.pop(found).removeprefix(':type: ')}: {lines[0]}"


def around(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The menu opens where the reader is (all objects on every page would be most of its weight), and a link leads to
    the page in the other language, or to its first page."""
    whole = context.get("toctree")
    if whole is not None:
        context["toctree"] = lambda **options: whole(**{**options, "collapse": True})
    here = pagename.startswith(CHINESE)
    label, same, first = (
        ("English", pagename.removeprefix(CHINESE), "index")
        if here
        else ("中文", f"{CHINESE}{pagename}", f"{CHINESE}index")
    )
    other = next((d for d in (same, first) if d in app.env.found_docs), None)
    context["other_language"] = (context["pathto"](other), label) if other else None


def write_text(app: Sphinx, problem: Exception | None) -> None:
    """Writes ``llms.txt``, a list of the pages, and ``llms-full.txt``, the text of all of them."""
    if problem is not None or app.builder.format != "html":
        return
    order = [d for d in _in_order(app.env, "index") if not d.startswith(CHINESE)]
    links = [f"- [{app.env.titles[d].astext()}]({d}.html)" for d in order]
    head = f"# {app.config.project}\n\n> {app.config.html_short_title}\n\n[All of it in one file](llms-full.txt)\n\n"
    (app.outdir / "llms.txt").write_text(head + "\n".join(links) + "\n")
    written = [app.env.doc2path(d).read_text() for d in order if not d.startswith("reference/")]
    written += [f"## sl.{e.name}\n\n{public.documentation(e)}\n" for e in public.entries().values()]
    (app.outdir / "llms-full.txt").write_text("\n\n".join(written))


def _in_order(env: BuildEnvironment, docname: str) -> Iterator[str]:
    """Pages as menus have them."""
    yield docname
    for below in env.toctree_includes.get(docname, ()):
        yield from _in_order(env, below)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("outside_menu", [], "env")
    app.add_directive("listed", Listed)
    app.connect("builder-inited", write_pages)
    app.connect("env-updated", set_apart)
    app.connect("autodoc-process-bases", public_bases)
    app.connect("autodoc-process-signature", own_signature)
    app.connect("autodoc-process-docstring", say_arguments, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", words_first, priority=600)  # after napoleon
    app.connect("missing-reference", found_elsewhere)
    app.connect("html-page-context", around, priority=400)  # before the theme draws its menu
    app.connect("build-finished", write_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

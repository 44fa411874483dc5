"""Chinese pages and what they translate; ``python tests/chinese.py`` copies changed code into them.

A page names its original, relative to docs/, with the hash of what it translates::

    <!-- of: concepts.md sha256:... -->
    <!-- of: porting.md sha256:... parts: Porting; Habits -->

With ``parts`` it translates the text under these headings alone, each up to the next heading of whatever level.
"""

# ruff: noqa: RUF001  # Chinese has marks of its own

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TERMS = DOCS / "zh" / "术语.md"
OWN = {TERMS, DOCS / "zh" / "index.md"}
"""Pages that translate nothing."""
PAGES = [ROOT / "README.zh.md", *(page for page in sorted((DOCS / "zh").rglob("*.md")) if page not in OWN)]

FENCE = re.compile(r"^```(\w*).*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
OF = re.compile(r"^<!-- of: (?P<path>\S+) sha256:(?P<hash>[0-9a-f]*)(?: parts: (?P<parts>.*))? -->$", re.MULTILINE)
CJK = "[\u3400-\u9fff]"


def prose(text):
    """A page without its blocks."""
    return FENCE.sub("", text)


def blocks(text):
    """Language and code of each block; of shell commands without the explanations beside them, which are prose."""
    explained = re.compile(r"(?<=\S) {2,}\S.*$", re.MULTILINE)
    return [(lang, explained.sub("", code) if lang in {"", "bash"} else code) for lang, code in FENCE.findall(text)]


def levels(text):
    """The level of each heading."""
    return [len(marks) for marks, _ in HEADING.findall(prose(text))]


def names(text):
    """What stands in backticks outside of blocks; an object of one of Sphinx's roles counts as ``sl.Object``."""
    roles = re.sub(r"\{\w+\}`~?(?:spikeloom(?:\.\w+)*\.)?(\w+)`", r"`sl.\1`", prose(text))
    return {" ".join(name.split()) for part in roles.split("\n\n") for name in re.findall(r"`([^`]+)`", part)}


def pictures(text):
    """The file of each picture with its folder, and those that are not described in Chinese."""
    found = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", prose(text))
    files = ["/".join(Path(file).parts[-2:]) for _, file in found]
    return files, [file for (alt, _), file in zip(found, files, strict=True) if not re.search(CJK, alt)]


def rows(text):
    """The names in each row of a table."""
    return [names(line) for line in prose(text).splitlines() if line.startswith("|") and names(line)]


def part_of(text, parts):
    """The text under each of the headings named, up to the next heading."""
    hidden = FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)  # a comment in code is no heading
    found = list(HEADING.finditer(hidden))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    by_title = {heading[2]: text[heading.start() : end] for heading, end in zip(found, ends, strict=True)}
    missing = [title for title in parts if title not in by_title]
    assert not missing, f"the original has no heading {missing}; it has {list(by_title)}"
    return "".join(by_title[title] for title in parts)


def original(page):
    """What a page says of its original, and the text that it translates."""
    text = page.read_text()
    said = OF.findall(text)
    assert len(said) == 1, f"{page.name}: expected one line <!-- of: PAGE sha256:HASH -->, got {len(said)}"
    of = OF.search(text)
    whole = (DOCS / of["path"]).read_text()
    return of, part_of(whole, of["parts"].split("; ")) if of["parts"] else whole


def foreign(text, source):
    """The code of the first block that the original does not have, or has not in this order; None if there is none."""
    theirs = iter(blocks(source))
    return next((code for language, code in blocks(text) if (language, code) not in theirs), None)


def differences(text, source, *, whole):
    """What of a translation is not as the original has it: code, headings, names, pictures, tables."""
    problems = []
    if blocks(text) != blocks(source):
        mine, theirs = blocks(text), blocks(source)
        first = next(
            (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
        )
        problems.append(f"block {first + 1} is not the original's ({len(mine)} blocks here, {len(theirs)} there)")
    if levels(text) != levels(source):
        problems.append(f"headings have levels {levels(text)}, those of the original {levels(source)}")
    if added := {name for name in names(text) - names(source) if name not in source}:
        problems.append(f"names that the original does not have: {sorted(added)}")
    if whole and (lost := names(source) - names(text)):
        problems.append(f"names of the original that are missing: {sorted(lost)}")
    shown, mute = pictures(text)
    if shown != pictures(source)[0]:
        problems.append(f"pictures are {shown}, those of the original {pictures(source)[0]}")
    if mute:
        problems.append(f"pictures without a description in Chinese: {mute}")
    if mixed := [sorted(row) for row in rows(text) if not any(row <= other for other in rows(source))]:
        problems.append(f"rows of tables with names that are in no one row of the original: {mixed}")
    return problems


def forbidden():
    """Word to be used by each variant that is not, of the table of terms."""
    rows = re.findall(r"^\| *([^|]+?) *\|[^|]*\|[^|]*\| *([^|]*?) *\|$", TERMS.read_text(), re.MULTILINE)
    named = {variant: word for word, variants in rows for variant in variants.split("、") if re.match(CJK, variant)}
    return {variant: word for variant, word in named.items() if variant != "不用"}  # the head of the column


def wrong_words(text):
    """Variants that the table of terms rules out, with the word that it wants."""
    return [f"{variant}: {word}" for variant, word in forbidden().items() if variant in prose(text)]


def slips(text):
    """Slips of typesetting: half-width marks, no space beside Latin letters, a space between Chinese characters."""
    text = re.sub(r"^<!--.*-->$|\]\([^)]*\)", "]", prose(text), flags=re.MULTILINE)
    found = []
    for what in (
        f"{CJK}[,;:?!]",
        f"{CJK}[A-Za-z0-9`$]|[A-Za-z0-9`$]{CJK}",
        f"{CJK} +{CJK}",
        f"{CJK}\n{CJK}",
        " [，。；：、？！）]|[，。；：、？！（] ",
        "“[^”]*“|。。|，，",
    ):
        found += [text[max(0, m.start() - 8) : m.end() + 8] for m in re.finditer(what, text)]
    return found


def anchors(text):
    """Anchors of headings as GitHub and Sphinx make them."""
    titles = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for _, title in HEADING.findall(prose(text)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def current(source):
    """The hash of what is translated."""
    return hashlib.sha256(source.encode()).hexdigest()


def renewed(text, source):
    """A translation with the code of its original, block by block, if there are as many; explanations stay."""
    here, there = list(FENCE.finditer(text)), list(FENCE.finditer(source))
    if len(here) != len(there):
        return text
    for mine, theirs in zip(reversed(here), reversed(there), strict=True):
        if blocks(mine[0]) != blocks(theirs[0]):
            text = text[: mine.start()] + theirs[0] + text[mine.end() :]
    return text


def main():
    """Copies changed code, and says which pages differ still: in words, or by blocks that came or went."""
    for page in PAGES:
        of, source = original(page)
        before = page.read_text()
        after = renewed(before, source)
        if after != before:
            page.write_text(after)
            print(f"{page.relative_to(ROOT)}: code copied")
        if of["hash"] != current(source):
            print(f"{page.relative_to(ROOT)}: behind {of['path']}; its words right, write sha256:{current(source)}")
            for problem in differences(after, source, whole=not of["parts"]):
                print(f"    {problem}")


if __name__ == "__main__":
    main()

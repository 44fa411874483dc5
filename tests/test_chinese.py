"""Chinese pages: their code is the original's, their headings stand where its do, one thing has one word.

A page names its original, relative to docs/, with the hash of what it translates::

    <!-- of: concepts.md sha256:... -->
    <!-- of: porting.md sha256:... parts: Porting; Habits -->

With ``parts`` it translates the text under these headings alone, each up to the next heading of whatever level. A page
whose original has changed since is named in the summary of the tests and may lack what is new there, so that whoever
writes no Chinese can go on; code that the original does not have is an error at once, and everything is one in `make
release-check`.
"""

# ruff: noqa: RUF001  # Chinese has marks of its own

import hashlib
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_headings_and_names_are_those_of_the_original(page, record_property):
    of, source = original(page)
    text, now = page.read_text(), hashlib.sha256(source.encode()).hexdigest()
    assert foreign(text, source) is None
    different = differences(text, source, whole=not of["parts"])
    if of["hash"] == now:
        assert different == []
    else:
        stale = f"{page.relative_to(ROOT)} translates an older {of['path']}: compare them, then write sha256:{now}"
        assert not os.environ.get("SPIKELOOM_RELEASE"), [stale, *different]
        record_property("note", stale)


@pytest.mark.parametrize("page", [*PAGES, *sorted(OWN)], ids=lambda page: page.name)
def test_one_thing_has_one_word_and_typesetting_is_clean(page):
    assert page == TERMS or wrong_words(page.read_text()) == []
    assert slips(page.read_text()) == []


@pytest.mark.parametrize("page", [*PAGES, *sorted(OWN)], ids=lambda page: page.name)
def test_links_to_headings_lead_to_one(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", prose(page.read_text())):
        there = page.parent / target if target else page
        assert anchor in anchors(there.read_text()), f"{target}#{anchor}"


def test_each_term_of_the_glossary_has_a_chinese_one():
    english = re.findall(r"^\|[^|]+\|([^|]+)\|[^|]*\|[^|]*\|$", TERMS.read_text(), re.MULTILINE)
    known = {word.strip() for words in english for word in words.split(",")}
    terms = re.findall(r"^(\S.*)\n  \S", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 30
    assert [term for term in terms if term not in known] == []


def test_readmes_name_each_other():
    assert "](README.zh.md)" in (ROOT / "README.md").read_text()[:500]
    assert "](README.md)" in (ROOT / "README.zh.md").read_text()[:500]


def test_what_is_compared_would_be_found():
    source = "# A\n\nIt has `x`.\n\n## B\n\n```python\nx = 1  # one\n```\n\n```bash\nmake x   # it makes\n```\n"
    good = "# 甲\n\n它有 `x`。\n\n## 乙\n\n```python\nx = 1  # one\n```\n\n```bash\nmake x  # 生成\n```\n"
    assert differences(good, source, whole=True) == []
    assert foreign(good, source) is None
    assert foreign(good, source + "```python\nnew\n```\n") is None  # an older translation
    assert foreign(good.replace("# one", "# 一"), source) == "x = 1  # 一\n"
    assert foreign(good + "```python\nx = 1  # one\n```\n", source) == "x = 1  # one\n"  # twice
    assert "block 1 " in differences(good.replace("# one", "# 一"), source, whole=True)[0]
    assert "block 2 " in differences(good.replace("make x", "make y"), source, whole=True)[0]
    assert "levels [1, 3]" in differences(good.replace("## 乙", "### 乙"), source, whole=True)[0]
    assert differences(good.replace("`x`", "`z`"), source, whole=True) == [
        "names that the original does not have: ['z']",
        "names of the original that are missing: ['x']",
    ]
    assert differences("![图](../t/1.png)", "![A picture](t/1.png)", whole=True) == []
    assert [p.split(" ")[1] for p in differences("![A](t/2.png)", "![A](t/1.png)", whole=True)] == ["are", "without"]
    table = "| `a` | `b` |\n| `c` | `d` |\n"
    assert differences("| `a` | 乙 `b` |\n", table, whole=False) == []
    assert "[['a', 'd']]" in differences("| `a` | `d` |\n", table, whole=False)[0]
    assert names("A `list\nof recipes` and {class}`~spikeloom.core.Network`") == {"list of recipes", "sl.Network"}
    assert part_of(source, ["B"]).startswith("## B")
    with pytest.raises(AssertionError, match="no heading"):
        part_of(source, ["C"])


def test_wrong_words_and_slips_would_be_found():
    assert wrong_words("神经元发出尖峰。\n\n```text\n门限\n```\n") == ["尖峰: 脉冲"]
    assert len(forbidden()) > 40
    assert forbidden()["峰值"] == "脉冲"
    assert slips("时间步,状态") != []
    assert slips("共 `T` 步，PyTorch 的。") == []
    for slip in ("用PyTorch 写", "共`T` 步", "时间 步", "时间\n步", "步 。", "（ 步）"):
        assert slips(slip), slip
    assert anchors("# 状态：参数与结果\n## A b") == {"状态参数与结果", "a-b"}


def test_notes_of_tests_are_shown(request):
    plugins = request.config.pluginmanager.get_plugins()
    conftest = next(p for p in plugins if getattr(p, "__file__", None) == str(Path(__file__).with_name("conftest.py")))
    reports = {
        "passed": [SimpleNamespace(user_properties=[("note", "concepts is old"), ("other", "x")])],
        "": [object()],
    }
    assert conftest.notes(reports) == ["concepts is old"]

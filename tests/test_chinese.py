"""Chinese pages: their code is the original's, their headings stand where its do, one thing has one word.

A page whose original has changed since is named in the summary of the tests and may lack what is new there, so that
whoever writes no Chinese can go on; code that the original does not have is an error at once (``python
tests/chinese.py`` copies it), and everything is one in `make release-check`.
"""

# ruff: noqa: RUF001  # Chinese has marks of its own

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import chinese


@pytest.mark.parametrize("page", chinese.PAGES, ids=lambda page: page.name)
def test_code_headings_and_names_are_those_of_the_original(page, record_property):
    of, source = chinese.original(page)
    text, now = page.read_text(), chinese.current(source)
    assert chinese.foreign(text, source) is None, "not the original's code: `python tests/chinese.py` copies it"
    different = chinese.differences(text, source, whole=not of["parts"])
    if of["hash"] == now:
        assert different == []
    else:
        where = page.relative_to(chinese.ROOT)
        stale = f"{where} translates an older {of['path']}: compare them, then write sha256:{now}"
        assert not os.environ.get("SPIKELOOM_RELEASE"), [stale, *different]
        record_property("note", stale)


@pytest.mark.parametrize("page", [*chinese.PAGES, *sorted(chinese.OWN)], ids=lambda page: page.name)
def test_one_thing_has_one_word_and_typesetting_is_clean(page):
    assert page == chinese.TERMS or chinese.wrong_words(page.read_text()) == []
    assert chinese.slips(page.read_text()) == []


@pytest.mark.parametrize("page", [*chinese.PAGES, *sorted(chinese.OWN)], ids=lambda page: page.name)
def test_links_to_headings_lead_to_one(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", chinese.prose(page.read_text())):
        there = page.parent / target if target else page
        assert anchor in chinese.anchors(there.read_text()), f"{target}#{anchor}"


def test_each_term_of_the_glossary_has_a_chinese_one():
    english = re.findall(r"^\|[^|]+\|([^|]+)\|[^|]*\|[^|]*\|$", chinese.TERMS.read_text(), re.MULTILINE)
    known = {word.strip() for words in english for word in words.split(",")}
    terms = re.findall(r"^(\S.*)\n  \S", (chinese.DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(terms) > 30
    assert [term for term in terms if term not in known] == []


def test_readmes_name_each_other():
    assert "](README.zh.md)" in (chinese.ROOT / "README.md").read_text()[:500]
    assert "](README.md)" in (chinese.ROOT / "README.zh.md").read_text()[:500]


def test_what_is_compared_would_be_found():
    source = "# A\n\nIt has `x`.\n\n## B\n\n```python\nx = 1  # one\n```\n\n```bash\nmake x   # it makes\n```\n"
    good = "# 甲\n\n它有 `x`。\n\n## 乙\n\n```python\nx = 1  # one\n```\n\n```bash\nmake x  # 生成\n```\n"
    assert chinese.differences(good, source, whole=True) == []
    assert chinese.foreign(good, source) is None
    assert chinese.foreign(good, source + "```python\nnew\n```\n") is None  # an older translation
    assert chinese.foreign(good.replace("# one", "# 一"), source) == "x = 1  # 一\n"
    assert chinese.foreign(good + "```python\nx = 1  # one\n```\n", source) == "x = 1  # one\n"  # twice
    assert "block 1 " in chinese.differences(good.replace("# one", "# 一"), source, whole=True)[0]
    assert "block 2 " in chinese.differences(good.replace("make x", "make y"), source, whole=True)[0]
    assert "levels [1, 3]" in chinese.differences(good.replace("## 乙", "### 乙"), source, whole=True)[0]
    assert chinese.differences(good.replace("`x`", "`z`"), source, whole=True) == [
        "names that the original does not have: ['z']",
        "names of the original that are missing: ['x']",
    ]
    assert chinese.differences("![图](../t/1.png)", "![A picture](t/1.png)", whole=True) == []
    other, mute = chinese.differences("![A](t/2.png)", "![A](t/1.png)", whole=True)
    assert "['t/2.png']" in other
    assert "without a description in Chinese: ['t/2.png']" in mute
    table = "| `a` | `b` |\n| `c` | `d` |\n"
    assert chinese.differences("| `a` | 乙 `b` |\n", table, whole=False) == []
    assert "[['a', 'd']]" in chinese.differences("| `a` | `d` |\n", table, whole=False)[0]
    assert chinese.names("A `list\nof recipes` and {class}`~spikeloom.core.Network`") == {
        "list of recipes",
        "sl.Network",
    }
    assert chinese.part_of(source, ["B"]).startswith("## B")
    with pytest.raises(AssertionError, match="no heading"):
        chinese.part_of(source, ["C"])


def test_changed_code_is_copied_and_explanations_stay():
    source = "# A\n\n```python\nx = 2\n```\n\n```bash\nmake x   # it makes\n```\n\n```text\n2\n```\n"
    older = "# 甲\n\n```python\nx = 1\n```\n\n```bash\nmake x  # 生成\n```\n\n```text\n1\n```\n"
    assert chinese.renewed(older, source) == older.replace("1", "2")
    assert (
        chinese.renewed(older, source + "\n```text\nmore\n```\n") == older
    )  # whoever writes Chinese says where it goes


def test_wrong_words_and_slips_would_be_found():
    assert chinese.wrong_words("神经元发出尖峰。\n\n```text\n门限\n```\n") == ["尖峰: 脉冲"]
    assert len(chinese.forbidden()) > 40
    assert chinese.forbidden()["峰值"] == "脉冲"
    assert chinese.slips("时间步,状态") != []
    assert chinese.slips("共 `T` 步，PyTorch 的。") == []
    for slip in ("用PyTorch 写", "共`T` 步", "时间 步", "时间\n步", "步 。", "（ 步）"):
        assert chinese.slips(slip), slip
    assert chinese.anchors("# 状态：参数与结果\n## A b") == {"状态参数与结果", "a-b"}


def test_notes_of_tests_are_shown(request):
    plugins = request.config.pluginmanager.get_plugins()
    conftest = next(p for p in plugins if getattr(p, "__file__", None) == str(Path(__file__).with_name("conftest.py")))
    reports = {
        "passed": [SimpleNamespace(user_properties=[("note", "concepts is old"), ("other", "x")])],
        "": [object()],
    }
    assert conftest.notes(reports) == ["concepts is old"]

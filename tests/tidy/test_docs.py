"""What the documents quote is what the files say, and what they point to is there."""

from __future__ import annotations

import posixpath
import re
import textwrap
from collections.abc import Callable

import pytest

QUOTE = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]*))?\)")


def misquoted(text: str, read: Callable[[str], str]) -> list[str]:
    """Quoted blocks of `text` that are not, indentation aside, consecutive lines of the file they name."""
    found = []
    for path, block in QUOTE.findall(text):
        wanted = textwrap.dedent(block).rstrip()
        lines = read(path).splitlines()
        count = len(wanted.splitlines())
        pieces = (textwrap.dedent("\n".join(lines[k : k + count])).rstrip() for k in range(len(lines)))
        if wanted not in pieces:
            found.append(f"{path}: {wanted.splitlines()[0]}")
    return found


def anchors(text: str) -> set[str]:
    """The names that a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="session")
def pages(tree: dict[str, str]) -> dict[str, str]:
    return {path: text for path, text in tree.items() if path.endswith(".md")}


def test_quotes_are_the_code(pages: dict[str, str], tree: dict[str, str]) -> None:
    assert any(QUOTE.search(text) for text in pages.values())
    read = tree.__getitem__
    assert [f"{path} quotes {wrong}" for path, text in pages.items() for wrong in misquoted(text, read)] == []


def test_links_lead_somewhere(pages: dict[str, str], paths: set[str]) -> None:
    broken = []
    for page, text in pages.items():
        for target, anchor in LINK.findall(text):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            there = path in paths or any(name.startswith(f"{path}/") for name in paths)
            if not there or (anchor and anchor not in anchors(pages[path])):
                broken.append(f"{page} → {target}{'#' if anchor else ''}{anchor}")
    assert broken == []


@pytest.mark.parametrize("source", ["x = 1\n    y = 2\n", "    x = 1\n\n    y = 2\n", "x = 1\n"])
def test_a_misquote_is_noticed(source: str) -> None:
    page = "```python file=a.py\n    x = 1\n    y = 2\n```\n"
    assert misquoted(page, lambda _: source) == ["a.py: x = 1"]
    assert misquoted(page, lambda _: "if z:\n    x = 1\n    y = 2\n") == []

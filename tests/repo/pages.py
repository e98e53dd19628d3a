"""Read the pages of the documentation: their blocks of code, command lines and anchors."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from pretrain.runtime.machine import PROJECT_ROOT

PAGES = [
    PROJECT_ROOT / "README.md",
    *sorted((PROJECT_ROOT / "docs").glob("*.md")),
    PROJECT_ROOT / "CONTRIBUTING.md",
    PROJECT_ROOT / "SECURITY.md",
]
FENCE = re.compile(r"(?:^ *<!-- ([^>]+) -->\n)?^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:(?:\.venv/bin/)?(?:mochi|python -m)|make) [^`\n]+)`")
ELISION = ("…", "<", "STAGE", "NAME", "CHAIN", "KEY", "WORD", "COMMAND", "CONFIG", "FILE")
"""Signs of a form, in which something is left for the reader to fill in."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    mark: str
    """The comment above it; empty: none."""
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The lines, those that end in a backslash joined with the next."""
        return re.sub(r" *\\\n *", " ", self.text).splitlines()

    def with_text(self, text: str) -> "Block":
        """Return the block with another text."""
        return replace(self, text=text)


def find_blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; those of the README that are YAML are chains."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        mark, _, language, body = found.groups()
        yield Block(
            page=page.name,
            line=text.count("\n", 0, found.start()) + 1,
            mark=(mark or ("chain" if page.name == "README.md" else "")).strip(),
            language=language,
            text=textwrap.dedent(body),
        )


def list_commands(page: Path) -> Iterator[list[str]]:
    """Yield every command shown on a page as words: ["mochi", …], ["make", TARGET], or [MODULE, …] of python -m."""
    lines = [line for block in find_blocks(page) if block.language == "sh" for line in block.lines]
    for line in [*lines, *INLINE.findall(page.read_text())]:
        yield from split_line(line)


def split_line(line: str) -> Iterator[list[str]]:
    """Yield the commands in a line, each beginning with mochi, make or the module."""
    cut = next((line.find(sign) for sign in ELISION if sign in line.partition("#")[0]), len(line))
    words = [word.removeprefix(".venv/bin/") for word in shlex.split(line[:cut].replace("'", '"'), comments=True)]
    starts = [
        place
        for place, word in enumerate(words)
        if word in ("mochi", "-m") or (word == "make" and words[place - 1 : place] != ["data"])
    ]
    for start, end in pairwise([*starts, len(words)]):
        part = words[start:end]
        if part[0] == "-m" and len(part) > 1 and part[1].startswith("tools"):
            yield part[1:]
        elif part[0] != "-m" and len(part) > 1:
            yield part


def list_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}

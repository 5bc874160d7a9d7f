"""What tests/docs needs of a Markdown page: its blocks, links, headings and the commands that it names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "anchors", "blocks", "commands", "links", "pages"]

_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)[^`]*$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<text>.*?)\s*-->\s*$")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$")
_COMMAND = re.compile(r"(?:^|&&|\|\||[;|$!%])\s*(qcity(?: .*)?)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block; ``comment`` is the HTML comment on the line before it, if there is one."""

    language: str
    source: str
    line: int
    comment: str

    @property
    def reason_not_run(self) -> str:
        """The reason after `not run:`; empty where the block runs."""
        return self.comment.removeprefix("not run:").strip() if self.comment.startswith("not run:") else ""


def _split(text: str) -> tuple[list[Block], list[str]]:
    """The fenced blocks, and the lines outside them."""
    blocks, outside, comment = [], [], ""
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        if opening := _FENCE.match(line):
            inside = []
            for _, inner in lines:
                if inner.strip().startswith(opening["fence"]) and not inner.strip().strip(opening["fence"][0]):
                    break
                inside.append(inner.removeprefix(opening["indent"]))
            else:
                raise ValueError(f"line {number}: the block is not closed")
            blocks.append(
                Block(language=opening["language"], source="\n".join(inside) + "\n", line=number, comment=comment)
            )
            comment = ""
            continue
        outside.append(line)
        if line.strip():
            remark = _COMMENT.match(line)
            comment = remark["text"] if remark else ""
    return blocks, outside


def blocks(text: str) -> list[Block]:
    """Every fenced block, in order. Indented blocks are figures, not code."""
    return _split(text)[0]


def links(text: str) -> list[str]:
    """The targets of links and images outside code."""
    targets = []
    for line in _split(text)[1]:
        plain = _SPAN.sub("", line)
        targets += _LINK.findall(plain)
        targets += _REFERENCE.findall(plain)
    return targets


def anchors(text: str) -> set[str]:
    """The fragments that the headings of a page make, as GitHub makes them."""
    slugs: set[str] = set()
    for line in _split(text)[1]:
        if heading := re.match(r"^#{1,6}\s+(.*?)\s*#*$", line):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "").lower()
            slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            number = sum(1 for known in slugs if re.fullmatch(re.escape(slug) + r"(-\d+)?", known))
            slugs.add(f"{slug}-{number}" if number else slug)
    return slugs


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `qcity …` command in code spans and in bash blocks; comments are dropped."""
    fenced, outside = _split(text)
    lines = [span[1] for line in outside for span in _SPAN.findall(line)]
    for block in fenced:
        if block.language == "bash":
            lines += block.source.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in re.split(r"&&|\|\||[;|]", line):
            if named := _COMMAND.search(part.strip()):
                lexer = shlex.shlex(named[1].replace("[", " ").replace("]", " "), posix=True, punctuation_chars=False)
                lexer.whitespace_split = True
                lexer.commenters = "#"
                yield list(lexer)


def pages(root: Path) -> list[Path]:
    """The pages of a checkout that are held to their word."""
    candidates = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in candidates if page.is_file()]

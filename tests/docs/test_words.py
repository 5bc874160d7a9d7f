"""The field's words and no private ones, in everything that people read; lines of Markdown that fit a screen.

A *phrase* is forbidden in prose: Markdown outside code, Markdown cells of notebooks, messages and docstrings of the
package. An *old name* is forbidden anywhere in Markdown, code blocks included, and in messages and docstrings.
Identifiers (classes, functions, settings, JSON keys) have a test of their own.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[2]
WIDTH = 120

Reader = Literal["page", "message", "docstring"]
"""Who meets the text: a reader of a page, a user whom the program tells something, a reader of the code."""

EVERYBODY: frozenset[Reader] = frozenset({"page", "message", "docstring"})
PAGE: frozenset[Reader] = frozenset({"page"})
PEOPLE: frozenset[Reader] = frozenset({"page", "message"})
CODE: frozenset[Reader] = frozenset({"message", "docstring"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrase:
    """What is not written, what is written instead, and where that holds."""

    pattern: re.Pattern[str]
    instead: str
    where: frozenset[Reader] = EVERYBODY


def phrase(pattern: str, instead: str, where: frozenset[Reader] = EVERYBODY) -> Phrase:
    """A blank in ``pattern`` may be a line's end."""
    return Phrase(
        pattern=re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE | re.MULTILINE), instead=instead, where=where
    )


def word(pattern: str, instead: str, where: frozenset[Reader] = EVERYBODY) -> Phrase:
    """A word by itself: no part of a path, a file's name, an option, an attribute, a call or `User-Agent`."""
    return phrase(rf"(?<![\w./<-])(?:{pattern})(?![\w/>=(]|\.\w|-\w)", instead, where)


PHRASES = (
    word("agents?", "sidecar; in messages: qcity's background process"),
    word("desks?", "mailbox"),
    word("bells?", "wakeup"),
    word("beats?|beating", "heartbeat"),
    phrase(r"\bjudg(?:e|es|ed|ing)\b(?: \S+){0,3}? dead\b", "declare dead"),
    # The class is still `Head`, so readers of the code meet it.
    word("heads?", "run record (of a branch: its tip)", PEOPLE),
    word("wanted", "desired state; of a job: needed"),
    word("intents?", "pending launch"),
    word("attended", "manual"),
    phrase(r"\bpass(?:es|ed|ing)? over\b", "skip"),
    phrase(r"\b(?:make|makes|made|making)(?: (?:it|them|what|one))? again\b", "re-create, re-run"),
    word("absent", "not saved; of a file: missing"),
    word("bury|buries|buried", "put a tombstone"),
    # `goes on the wire` and `on top` are places.
    phrase(r"\b(?:go|goes|going|gone|went) on\b(?! (?:the|a|an|its|top)\b)", "resume (after a stop), continue"),
    phrase(r"\bfor good\b(?! reason)", "permanently"),
    phrase(r"\bfor ever\b", "permanently, indefinitely", PAGE),
    phrase(r"(?<!left\s)(?<!leave\s)(?<!leaves\s)(?<![\w./-])behind\b", "after (in time), underneath (in place)"),
    phrase(r"\bin front of\b", "before"),
    word("story|stories", "journal"),
    word("rooms?", "storage, disk space"),
    word("lay|lays|laid|laying", "extract, write"),
    # An epoch is a training epoch. In pages only the forms can tell that the fencing token was meant.
    phrase(
        r"\b(?:higher|lower|later|past|own|new|same|stale|two|holder's) epochs?\b"
        r"|\bepochs? (?:and holder|is (?:still )?(?:its|their) own|only grows?|never|grows?|\+ ?1|number)\b"
        r"|\(epoch,|\bepoch \d+\b(?! of\b)",
        "term; people read `attempt 3`",
        PAGE,
    ),
    phrase(r"\bepochs?\b", "term (the fencing token); people read `attempt 3`", CODE),
)

OLD_NAMES = (
    phrase(r"--state\b", "--store"),
    phrase(r"\bup\([^()\n]*\bstate=", "up(store=…)"),
    phrase(r"\bwatch-on\b", "qcity keep --schedule HOST"),
    phrase(r"(?<!_)\bsnapshot_share\b", "snapshot_time_share"),
    phrase(r"(?<!_)\bwithout_progress\b", "max_attempts_without_progress"),
    phrase(r"\bQCITY_(?:BEAT|LOCAL|ATTEMPTS|WITHOUT_PROGRESS|SNAPSHOT_SHARE)\b", "the setting's new name"),
    phrase(r"`(?:beat|attempts)`|^\| `local` \| `\.qcity", "heartbeat, max_attempts, local_dir"),
    phrase(r"\bagent\.(?:json|lock|log)\b", "sidecar.json, .lock, .log"),
    phrase(r"\be?<epoch>", "t<term>"),
    phrase(r"\bqcity_nb[./](?:agent|notebook)\b|(?<![\w./])(?:agent|notebook)/\w*\.py\b", "sidecar, kernel, engine …"),
    phrase(
        r"\bqcity_nb[./](?:keeper|points|page|template|demo\w*|cli_\w+)\b"
        r"|(?<![\w./])(?:keeper|points|cli_\w+)\.(?:py|NAMES|hit)\b",
        "run.keeper, crashpoints, views.page, cli.…",
    ),
    phrase(
        r"\btesting[./](?:hub|store_contract|tracker_contract|store_(?:objects|races|hooks)|contract_run|at_hub)\b",
        "testing.contracts.…, testing.emulators.hub",
    ),
    phrase(r"\bcheckpoint[./](?:interop|seal)\b", "checkpoint.formats.safetensors_dcp, checkpoint.signing"),
)

# What may stay, with the reason. The first three would be found otherwise only where code is not set in backquotes.
ALLOWED = (
    (r"\bHTTP HEAD\b|\bHEAD (?:request|of)\b|\bgit \S*\s?HEAD\b", "HTTP's method, and git's own name"),
    (r"\bUser-Agent\b", "HTTP's header"),
    (r"\bpublish\(run, head,", "the parameter of `Store.publish` in ports.py"),
    (r"\btraining epochs?\b", "the field's word"),
    (r"\bcoding agents?\b", "the field's word"),
    (r"\bfor epoch in\b|\brange\(epochs\)|\bepochs[ =]\d+|\bepoch \d+ of \d+", "a training loop in an example"),
    (r"--loop epochs\b", "a loop's name in an example"),
    (r"cat\|head\|tail", "the shell's commands, in an expression that finds them"),
)
# Old names beside the new ones, for whoever used them.
ALLOWED_IN = {"CHANGELOG.md": r"\((?:were|was) [^)]*\)"}

# A span may be broken over two lines, but not over a paragraph's end.
SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)


def blank(match: re.Match[str]) -> str:
    """As many characters and lines, none of them a word."""
    return re.sub(r"\S", "_", match[0])


def lines_of(text: str) -> Iterator[tuple[str, str]]:
    """Each line of a page, and what it is: ``prose``, ``table``, ``figure``, ``fence``, or a fence's language."""
    fence, language, before = "", "", ""
    for line in text.splitlines():
        opening = re.match(r"^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)", line)
        if fence:
            is_end = line.strip().startswith(fence) and not line.strip().strip(fence[0])
            kind = "fence" if is_end else language
            fence = "" if is_end else fence
        elif opening:
            fence, language, kind = opening[1], opening[2] or "text", "fence"
        elif line.startswith("|"):
            kind = "table"
        elif line.startswith("    ") and before in {"", "figure"}:
            kind = "figure"
        else:
            kind = "prose" if line.strip() else before if before == "figure" else ""
        before = kind
        yield line, kind


def prose_of(text: str) -> str:
    """A page without its code: spans, addresses and programs are blank, a program's comments stay."""
    kept = []
    for line, kind in lines_of(text):
        if kind in {"fence", ""}:
            kept.append("")
        elif kind in {"prose", "table", "figure", "text"}:
            kept.append(line)
        else:
            comment = re.search(r"(?:^|\s)# (.*)", line)
            kept.append(comment[1] if comment else "")
    plain = SPAN.sub(blank, "\n".join(kept))
    return re.sub(r"\]\([^)\s]*\)|\bhttps?://\S+", blank, plain)


def found_in(text: str, reader: Reader, *, name: str = "") -> list[str]:
    """What ``text`` should not say: the line in it, the words, and what to write instead.

    Args:
        name: the file's, where some words may stay in one file alone.
    """
    prose = prose_of(text) if reader == "page" else SPAN.sub(blank, text)
    complaints = []
    for form, phrases in ((prose, PHRASES), (text, OLD_NAMES)):
        for pattern in [*(pattern for pattern, _ in ALLOWED), *filter(None, [ALLOWED_IN.get(name)])]:
            form = re.sub(pattern, blank, form, flags=re.DOTALL)
        for each in phrases:
            if reader in each.where:
                for match in each.pattern.finditer(form):
                    line = form.count("\n", 0, match.start()) + 1
                    complaints.append(f"line {line}: {' '.join(match[0].split())!r}: write {each.instead}")
    return complaints


def texts_of(source: str) -> Iterator[tuple[int, Reader, str]]:
    """The docstrings and messages of a module: a message has two words at least, else it is a key or a name.

    The values in an f-string are ``{}``.
    """
    tree = ast.parse(source)
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts.update(id(part) for part in node.values)
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if id(node) in docstrings:
            yield node.lineno, "docstring", text
        elif re.search(r"[A-Za-z]\S*\s+\S", text):
            yield node.lineno, "message", text


def found_in_code(source: str) -> list[str]:
    """The same for a module of the package."""
    complaints = []
    for begins, reader, text in texts_of(source):
        for complaint in found_in(text, reader):
            at, _, what = complaint.removeprefix("line ").partition(": ")
            complaints.append((begins + int(at) - 1, f"{reader}: {what}"))
    return [f"line {line}: {what}" for line, what in sorted(complaints)]


def markdown_of(notebook: str) -> str:
    """The Markdown cells of a notebook, one after the other."""
    cells = json.loads(notebook)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def too_long(text: str) -> list[str]:
    """Lines of prose that are longer than ``WIDTH``. Tables, code and bare links may be."""
    body = re.sub(r"\A---\n.*?\n---\n", blank, text, flags=re.DOTALL)
    bare = re.compile(r"\s*(?:[-*] )?(?:<?https?://\S+>?|!?\[[^\]]*\]\(\S+\))[.,;]?\s*")
    return [
        f"line {number}: {len(line)} characters"
        for number, (line, kind) in enumerate(lines_of(body), start=1)
        if len(line) > WIDTH and kind == "prose" and not bare.fullmatch(line)
    ]


def listed(*patterns: str) -> list[Path]:
    """Files that git has, or would have."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(ROOT / name for name in set(done.stdout.split("\0")) if name and (ROOT / name).is_file())


PAGES = listed("*.md")
NOTEBOOKS = listed("notebooks/*.ipynb", "templates/*.ipynb")


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_use_the_fields_words(page: Path) -> None:
    complaints = found_in(page.read_text(encoding="utf-8"), "page", name=name_of(page))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebooks_use_the_fields_words(notebook: Path) -> None:
    complaints = found_in(markdown_of(notebook.read_text(encoding="utf-8")), "page")
    assert not complaints, "\n".join(complaints)


def test_messages_and_docstrings_use_the_fields_words() -> None:
    complaints = [
        f"{name_of(file)}: {complaint}"
        for file in sorted((ROOT / "qcity_nb").rglob("*.py"))
        for complaint in found_in_code(file.read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit(page: Path) -> None:
    assert not too_long(page.read_text(encoding="utf-8"))


def test_all_pages_are_looked_at() -> None:
    names = {name_of(page) for page in PAGES}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/design.md", "docs/hosts/huggingface.md"} <= names
    assert {"benchmarks/README.md", "data/README.md", "templates/space/README.md"} <= names
    assert len(NOTEBOOKS) >= 6


PLANTED = {
    "The agent's log": "sidecar",
    "look at the desk": "mailbox",
    "the bell\nrings": "wakeup",
    "an `x` for each beat of it": "heartbeat",
    "it was judged\n  dead": "declare dead",
    "the run's head names it": "run record",
    "it is no longer wanted": "desired state",
    "an intent is written": "pending launch",
    "a run is *attended*": "manual",
    "Finished cells are passed over.": "skip",
    "Passing over is no progress": "skip",
    "the variable is made again": "re-create",
    "which makes it\nagain": "re-create",
    "what is absent": "not saved",
    "a tombstone, where it is buried": "tombstone",
    "the loop goes on where it was": "resume",
    "it went on.": "resume",
    "deleted for good": "permanently",
    "stays for ever": "permanently",
    "the cells behind it": "after",
    "one that is\nbehind": "after",
    "in\nfront of the cell": "before",
    "tells the run's story": "journal",
    "there is room for 200": "storage",
    "lays a template": "extract",
    "| term | a higher epoch |": "term",
    "held by another, epoch 3": "term",
    "`qcity ps --state x`": "--store",
    "```python\ncity = qcity.up(run='a', state='x')\n```": "store=",
    "```bash\nqcity watch-on hf-jobs\n```": "keep --schedule",
    "```bash\nqcity ps   # what is passed over\n```": "skip",
    "    loop   each boundary: the agent looks": "sidecar",
    "| `attempts` | 50 |": "max_attempts",
    "`snapshot_share`": "snapshot_time_share",
    "packs/e<epoch>-1.pack": "t<term>",
    "see agent.log": "sidecar.json",
    "`notebook/course.py`": "sidecar",
    "from qcity_nb.testing.hub.server import HubServer": "emulators",
}


@pytest.mark.parametrize("text", PLANTED)
def test_planted_words_are_found(text: str) -> None:
    (complaint,) = found_in(text, "page")
    assert PLANTED[text] in complaint


@pytest.mark.parametrize(
    "text",
    [
        "For each epoch of 100, the last saved epoch; training, epoch 41 of 100; higher accuracy after an epoch",
        "The heartbeat; coding agents; `User-Agent`, User-Agent; an HTTP HEAD; git's HEAD of nothing is `HEAD`",
        "the host `local`, HF Spaces, `city.loop(range(3), state=state)`, `max_attempts_without_progress`, attempts",
        "what goes on the wire, on top; unattended; overlays, layers, bedroom; the heading ahead; for good reason",
        "```python\nagent = head.behind  # an example\n```",
        "[see](docs/agent.md) and https://example.com/agent/head",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert not found_in(text, "page")


def test_lines_of_pages_are_counted() -> None:
    long = "x" * 60 + " " + "y" * 60
    assert [each.partition(":")[0] for each in too_long(f"a\n\n{long}\n- {long}\n  {long}\n")] == [
        "line 3",
        "line 4",
        "line 5",
    ]
    assert not too_long(f"{'x' * WIDTH}\n| {long} |\n\n    {long}\n\n```text\n{long}\n```\n")
    assert not too_long(f"- [{long}](https://example.com)\n\n<https://example.com/{'x' * WIDTH}>\n")


def test_messages_and_docstrings_are_distinguished_from_keys() -> None:
    source = '''"""The sidecar.

Not the agent.
"""

x: int = 0
"""Its beat, in the head of the run."""


def f(name: str) -> None:
    """Pass over."""
    print(f"run {name} is {'passed'} over " f"by agent {name}", "agent", {"agent": "a.b"})
    raise ValueError("the run's " "head")  # the agent
'''
    assert found_in_code(source) == [
        "line 3: docstring: 'agent': write sidecar; in messages: qcity's background process",
        "line 7: docstring: 'beat': write heartbeat",
        "line 11: docstring: 'Pass over': write skip",
        "line 12: message: 'agent': write sidecar; in messages: qcity's background process",
        "line 13: message: 'head': write run record (of a branch: its tip)",
    ]

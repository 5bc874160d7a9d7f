"""The field's names in our code: no private word in a module, class, function, parameter, field, local or JSON key.

Names are taken from the syntax trees of the package, its tests and benchmarks, and cut into words at underscores and
capitals. The phrases of what people read have a test of their own (tests/docs/test_words.py).
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import qcity_nb
from qcity_nb.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDERS = ("qcity_nb", "tests", "benchmarks")
NOT_OURS = ("tests/books", "tests/loops", "tests/data", "tests/test_names.py")
"""Cells and scripts, as people write them; recorded data; the list itself."""

WORDS: dict[str, str] = {
    "epoch": "term (an epoch is a training epoch)",
    "agent": "sidecar",
    "desk": "mailbox",
    "bell": "wakeup",
    "beat": "heartbeat",
    "beats": "heartbeats",
    "judged": "declared_dead",
    "intent": "pending_launch",
    "attended": "manual",
    "warden": "watchdog",
    "seat": "context",
    "ledger": "metric_log",
    "course": "resume_plan",
    "surround": "process_settings",
    "untold": "resolve",
    "told": "name the thing: reply, event, text, …",
    "bury": "put_tombstone",
    "adopt": "restore",
    "adopted": "restored",
    "sweep": "cleanup",
    "hear": "note_…",
    "story": "journal",
    "facts": "name the thing: host, settings, …",
}
"""Private words, anywhere in a name, and what stands in their place."""

NAMES: dict[str, str] = {
    "said": "name the thing: text, message, …",
    "given": "name the thing: settings, arguments, …",
    "found": "name the thing: path, match, head, …",
    "one": "name the thing: loop, record, entry, …",
    "mark": "name the thing: position, event, …",
    "wanted": "desired, or expected",
    "absent": "not_saved, or missing",
    "space": "snapshotter, namespace",
    "shot": "capture_buffer, snapshot",
    "scope": "row_scope, pickle_context",
    "settle": "finish_tracking, finish_save, …",
    "take": "acquire",
    "take_again": "rejoin",
    "let_go": "already_released",
    "is_look": "is_read_only",
    "objection": "trust_problem",
    "without_progress": "max_attempts_without_progress",
    "snapshot_share": "snapshot_time_share",
    "landed": "a verb",
    "vouched": "a verb",
    "packed": "a verb",
}
"""Private, or saying nothing, as a whole name. In tests only what they define is held to these: a local name in a
short test may be plain."""

OPTIONS: dict[str, str] = {"state": "--store", "watch_on": "keep --schedule"}
"""Options and commands of the command line that have another name now."""

SETTINGS: dict[str, str] = {"local": "local_dir", "attempts": "max_attempts"}
"""Settings that have another name now; the other tables hold for them too."""

STAYS: dict[tuple[str, str], str] = {
    ("qcity_nb/testing/emulators/hub/", "scope"): "the Hub's word for what a token, or a webhook's event, is about",
    ("qcity_nb/testing/emulators/hub/", "space"): "a Hugging Face Space; in git.py the character",
    ("qcity_nb/testing/emulators/hub/", "_space"): "the answer about a Hugging Face Space",
    ("benchmarks/log_call.py", "one"): "one call a row, beside all of them in one call: a column of the table",
}
"""Names that stay where they stand, each with its reason; by the beginning of the path."""

TRAINING = re.compile(r"(^|_)(epochs?|EPOCHS?)($|_)")
TRAINS = {
    "qcity_nb/cli/demo.py",
    "qcity_nb/cli/demo_deaths.py",
    "tests/support/killing.py",
}
"""Where training epochs are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """One identifier, and where it is bound."""

    text: str
    line: int
    kind: str


def names(source: str) -> Iterator[Name]:
    """All that ``source`` gives a name to; keys of dictionaries, which become JSON, too."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Name(text=node.name, line=node.lineno, kind="definition")
            case ast.arg():
                yield Name(text=node.arg, line=node.lineno, kind="parameter")
            case ast.Name(ctx=ast.Store()):
                yield Name(text=node.id, line=node.lineno, kind="variable")
            case ast.Attribute(ctx=ast.Store()):
                yield Name(text=node.attr, line=node.lineno, kind="attribute")
            case ast.Dict():
                for key in node.keys:
                    if isinstance(key, ast.Constant) and isinstance(key.value, str) and key.value.isidentifier():
                        yield Name(text=key.value, line=key.lineno, kind="key")
            case ast.alias(asname=str(asname)):
                yield Name(text=asname, line=node.lineno, kind="import")
            case ast.Call(func=ast.Attribute(attr="add_argument" | "add_parser") | ast.Name(id="command" | "action")):
                for word in node.args:
                    if isinstance(word, ast.Constant) and isinstance(word.value, str) and " " not in word.value:
                        yield Name(text=word.value.lstrip("-").replace("-", "_"), line=word.lineno, kind="option")


def parts(name: str) -> list[str]:
    """``_PendingSave`` and ``pending_save`` as ["pending", "save"]."""
    return [part for part in re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_") if part]


def instead_of(name: str, *, is_strict: bool = True) -> str:
    """What should stand in a name's place; empty: the name is fine.

    Args:
        is_strict: ``NAMES`` hold too.
    """
    words = parts(name)
    whole = NAMES.get("_".join(words), "") if is_strict else ""
    return whole or next((WORDS[word] for word in words if word in WORDS), "")


def private(sources: Mapping[str, str]) -> list[str]:
    """Private names, one line each; ``sources`` by path."""
    wrong = []
    for path, source in sources.items():
        stem = Path(path).stem
        if better := instead_of(stem.removeprefix("test_")):
            wrong.append(f"{path}: a module's name; say {better}")
        for name in names(source):
            if path in TRAINS and TRAINING.search(name.text):
                continue
            if any(path.startswith(place) and name.text == text for place, text in STAYS):
                continue
            is_strict = not path.startswith("tests/") or name.kind == "definition"
            renamed = OPTIONS.get(name.text, "") if name.kind == "option" else ""
            if better := renamed or instead_of(name.text, is_strict=is_strict):
                wrong.append(f"{path}:{name.line}: {name.kind} {name.text!r}; say {better}")
    return wrong


def sources() -> dict[str, str]:
    """Our Python files by path."""
    return {
        path: file.read_text("utf-8")
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        if not (path := file.relative_to(ROOT).as_posix()).startswith(NOT_OURS)
    }


def test_no_private_names() -> None:
    wrong = private(sources())
    assert not wrong, "\n".join(wrong)


def test_settings_have_their_new_names() -> None:
    names_now = {field.name for field in dataclasses.fields(Settings)}
    assert not names_now & {*SETTINGS, *(f"{old}_s" for old in SETTINGS)}
    assert names_now >= set(SETTINGS.values())


def test_where_runs_live_is_called_store() -> None:
    parameters = inspect.signature(qcity_nb.up).parameters
    assert "store" in parameters
    assert "state" not in parameters


def test_what_stays_is_still_there() -> None:
    bound = {(path, name.text) for path, source in sources().items() for name in names(source)}
    gone = [(place, text) for place, text in STAYS if not any(p.startswith(place) and t == text for p, t in bound)]
    assert not gone


@pytest.mark.parametrize(
    "source",
    [
        "class Seat: ...",
        "class _AgentThread: ...",
        "def bury(x): ...",
        "def f(epoch): ...",
        "def f():\n    found = 1",
        "[one for one in x]",
        "class C:\n    beat_s: float",
        "self.desk = 1",
        'x = {"judged": 1}',
        "import x as told",
        "async def hear(): ...",
        "EPOCH = 3",
        "sub.add_argument('--state')",
        "commands.add_parser('watch-on')",
        "sub.add_argument('--take-desk')",
    ],
)
def test_a_planted_name_is_found(source: str) -> None:
    assert private({"qcity_nb/run/x.py": source})


def test_a_planted_module_is_found() -> None:
    assert private({"qcity_nb/run/desk.py": ""})


@pytest.mark.parametrize("source", ["heartbeat_s = 1", "def foundation(): ...", "class Sidecar: ...", "stone = 1"])
def test_plain_names_pass(source: str) -> None:
    assert not private({"qcity_nb/run/x.py": source})

"""Scripts with a `city.loop`, and runs of them that are killed in the middle: `tests/loops/{right,faulty}/*.py`.

In a right one, all that an iteration passes to the next is in ``state``, so that a killed run ends as an undisturbed
one. A faulty one lacks something, and a killed run ends otherwise. Each script has comments at its top:

    # Result: an expression, what both runs are compared by
    # Lacks: of a faulty one, the names that a warning has to say, separated by commas; `a | b`: one of them is enough

They are written for this test, after the shapes that public code has.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import random
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from book_digest import digests
from loop_world import Killed, World
from optional import REASONS

from qcity_nb.city import City
from qcity_nb.kernel.loop_state import Loop
from qcity_nb.kernel.session import Session
from qcity_nb.settings import load

__all__ = [
    "LoopCase",
    "Outcome",
    "cases",
    "check_faulty",
    "folders",
    "parameters",
    "run_killed",
    "run_undisturbed",
    "skip_if_missing",
    "with_auto",
]

FOLDER = Path(__file__).resolve().parent.parent / "loops"
_OPTIONAL = ("torch", "jax")
_HEADER = re.compile(r"^# (Result|Lacks): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCase:
    """A script.

    Args:
        result: an expression in its namespace.
        lacks: what is missing from ``state``; of each group, a warning has to say one name.
        needs: modules that are not installed everywhere.
    """

    name: str
    path: Path
    source: str
    result: str
    lacks: tuple[frozenset[str], ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def is_faulty(self) -> bool:
        """Does a killed run end otherwise?"""
        return self.path.parent.name == "faulty"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    digest: str
    """Of the result."""
    text: str
    """The result, for people."""
    boundaries: int
    """How many iterations were finished, in all loops and attempts together."""
    messages: tuple[tuple[str, ...], ...]
    """What qcity said of the state, for each attempt."""


def cases(kind: str = "*") -> list[LoopCase]:
    """The scripts, right ones last; ``kind`` is "right" or "faulty"."""
    return [_read(path) for path in sorted(FOLDER.glob(f"{kind}/*.py"))]


def _read(path: Path) -> LoopCase:
    source = path.read_text(encoding="utf-8")
    header = dict(_HEADER.findall(source))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    groups = [group for group in header.get("Lacks", "").split(",") if group.strip()]
    return LoopCase(
        name=f"{path.parent.name}-{path.stem}",
        path=path,
        source=source,
        result=header["Result"],
        lacks=tuple(frozenset(re.findall(r"\w+", group)) for group in groups),
        needs=tuple(name for name in _OPTIONAL if name in imported),
    )


def with_auto(case: LoopCase, folder: Path) -> LoopCase:
    """The script with ``state="auto"`` in place of what it says; it is written to ``folder``."""
    tree = ast.parse(case.source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "city.loop":
            others = [keyword for keyword in node.keywords if keyword.arg != "state"]
            node.args, node.keywords = node.args[:1], [*others, ast.keyword("state", ast.Constant("auto"))]
    path = folder / case.path.name
    path.write_text(ast.unparse(tree), encoding="utf-8")
    return replace(case, source=path.read_text(encoding="utf-8"), path=path)


class _Attempts:
    """The processes that execute one script one after the other, in one directory."""

    def __init__(self, case: LoopCase, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.world = World(folder / "run")
        self.boundaries = 0
        self.messages: list[tuple[str, ...]] = []

    def execute(self, die_after: int | None) -> Outcome | None:
        """Execute the script from its top, as a new process would.

        Args:
            die_after: the last boundary that is saved; the attempt is killed when the next iteration ends, before its
                own boundary.
        Returns: ``None`` if it was killed.
        """
        session = self.world.start()
        self.world.cell(self.case.name, self.case.source)
        finished, advance = 0, session.advance

        def count(loop: Loop) -> None:
            nonlocal finished
            if finished == die_after:
                self.world.freeze()
                raise Killed
            advance(loop)
            finished += 1
            self.boundaries += 1
            session.force = session.force or finished == die_after

        session.advance = count  # type: ignore[method-assign]
        city = City.__new__(City)  # without a sidecar's process
        city.session, city.settings = session, load(self.folder, environ={})
        module = types.ModuleType("__main__")
        module.__dict__.update(city=city, __file__=str(self.case.path))
        try:
            with self._process(module):
                exec(compile(self.case.source, str(self.case.path), "exec"), module.__dict__)
                value = eval(self.case.result, module.__dict__)
                (digest,) = digests({"value": value}).values()
                text = repr(value)
            self._note_messages(session)
            return Outcome(digest[1], text, self.boundaries, tuple(self.messages))
        except Killed:
            self._note_messages(session)
            return None
        finally:
            session.engine.close()

    def _note_messages(self, session: Session) -> None:
        """What was said of the state in this attempt."""
        now = [change for change in session.history.changes if change["term"] == self.world.term]
        self.messages.append(tuple(change["text"] for change in now if change["kind"] == "state"))

    @contextlib.contextmanager
    def _process(self, module: types.ModuleType) -> Iterator[None]:
        """What is a process's own: the main module, the working directory, output, seeds that nobody has set."""
        _seed(self.world.term)
        before = sys.modules["__main__"]
        sys.modules["__main__"] = module
        quiet = io.StringIO()
        try:
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(quiet),
                contextlib.redirect_stderr(quiet),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                try:
                    yield
                finally:
                    module.__dict__.clear()  # files that it left open are closed now, while nobody is warned of them
        finally:
            sys.modules["__main__"] = before


def _seed(number: int) -> None:
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(number)


def run_undisturbed(case: LoopCase, folder: Path) -> Outcome:
    """Execute a script; ``folder`` is its working directory."""
    outcome = _Attempts(case, folder).execute(None)
    assert outcome is not None
    return outcome


def run_killed(case: LoopCase, folder: Path, *die_after: int) -> Outcome:
    """Execute a script, and kill it as often as ``die_after`` says: so many boundaries after its last beginning."""
    attempts = _Attempts(case, folder)
    for boundary in die_after:
        outcome = attempts.execute(boundary)
        if outcome is not None:  # it was over before
            return outcome
    outcome = attempts.execute(None)
    assert outcome is not None
    return outcome


def parameters(kind: str) -> list[object]:
    """The scripts of a kind, as parameters of a test."""
    return [pytest.param(case, id=case.path.stem) for case in cases(kind)]


def skip_if_missing(case: LoopCase) -> None:
    """A script that needs what is not installed cannot run."""
    for name in case.needs:
        if importlib.util.find_spec(name) is None:
            pytest.skip(REASONS[name])


def folders(path: Path, count: int) -> list[Path]:
    """Directories, each for one run."""
    made = [path / str(number) for number in range(count)]
    for folder in made:
        folder.mkdir()
    return made


def named(messages: tuple[str, ...]) -> list[set[str]]:
    """The words of each variable that was named: of `Job.made` both. Those of the line to write are left out."""
    heads = [text.partition(" After a restart")[0] for text in messages]
    paths = {path for head in heads for path in re.findall(r"`([^`]+)`", head)} - {"state"}
    return [set(re.findall(r"\w+", path)) for path in sorted(paths)]


def check_faulty(case: LoopCase, messages: tuple[str, ...]) -> None:
    """Each of the missing variables is named, and no other one."""
    state = {"state"} if any("`state` is bound anew" in text for text in messages) else set()
    names = [*named(messages), state]
    for group in case.lacks:
        assert any(group & words for words in names), f"{sorted(group)} is missing from {messages}"
    for words in filter(None, names):
        assert any(group & words for group in case.lacks), f"{sorted(words)} is one too many in {messages}"

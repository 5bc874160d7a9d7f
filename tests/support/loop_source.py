"""Runs a user's source whose loops say what their state lacks, in this process."""

from __future__ import annotations

import linecache
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loop_world import World

from qcity_nb.kernel import loop

__all__ = ["LoopSource"]


class _City:
    """What the source calls ``city``: the loops of one attempt."""

    def __init__(self, world: World) -> None:
        self._world = world

    def loop(self, items: Iterable[Any], state: object = None, **options: Any) -> Iterator[Any]:
        """``City.loop``."""
        return loop.begin(self._world.session, items, state, loop.LoopOptions(**options), sys._getframe(1))

    def log(self, **metrics: Any) -> None:
        """``City.log``."""
        self._world.log(**metrics)


class LoopSource:
    """One run below ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World(path / "run")

    def run(self, source: str, *, as_cell: bool = False, **variables: Any) -> dict[str, Any]:
        """Run it as a script, or as a notebook's cell; returns its variables. Begins a new attempt."""
        self.world.start()
        self.world.cell()
        text = textwrap.dedent(source)
        file = self.path / "train.py"
        name = f"<cell {id(self)}>" if as_cell else str(file)
        if not as_cell:
            file.write_text(text)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        module = types.ModuleType("user_train")
        module.__file__ = name
        sys.modules[module.__name__] = module  # so that instances of its classes can be pickled
        names = vars(module)
        names.update(city=_City(self.world), **variables)
        exec(compile(text, name, "exec"), names)
        return names

    @property
    def messages(self) -> list[str]:
        """What was said of the states of its loops, in all attempts."""
        return [each["text"] for each in self.world.session.history.changes if each["kind"] == "state"]

"""Which variables can the code that ran have reached? Too many may be named, too few never.

Why that is sound. A variable changes if it is bound anew, or if an object that it leads to is changed.
1. Code of the notebook gets at variables by name. Every name that a cell mentions counts, however it mentions it
   (`mention.py`), in nested code too. What makes names out of data (`eval`, `globals`, frames, `__main__`, unknown
   magics, …) means everything.
2. Other code of the notebook runs in a cell only if the cell gets hold of it. `census.py` shows, when `clear` is
   called, that all of it (functions, so also classes and instances; generators) is held by variables alone: no
   library has a reference, so no hook, finalizer or signal handler can fire. If that fails, the answer is
   everything. If it holds, the cell has code through variables that it names; what they lead to is followed, and
   the names that such code mentions count in turn, until nothing is added.
3. Objects are got at through variables that count, or are new. Whoever shares a mutable object with a variable
   that counts is to be taken with it (the caller keeps such groups). A variable that a library holds as well, as
   pyplot does a figure, always counts.
4. Threads, tasks and timers run code at any time: everything.

Not covered: C extensions that keep borrowed pointers; memory changed from outside Python (other processes,
`np.frombuffer` over foreign memory); `eval` and its kin inside a library's object, or deep in a large variable; code
that makes up names from pieces; libraries that look into `__main__` without being given a name (a debugger); objects
deep in a large variable, or inside a library's object, that a library keeps in its own state as well and changes of
its own accord; instances of classes that have no methods of their own, the same way. Hence full checks now and then.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Mapping
from typing import Any

from qcity_nb.cells.names import Mention, in_source, words
from qcity_nb.namespace import reference_audit

__all__ = ["Reach"]

_LOADS = words(
    "load loads pickle read_pickle Unpickler joblib shelve jsonpickle multiprocessing concurrent futures Pool"
)
"""What was pickled names the notebook's functions and classes, out of sight."""
_QUIET = frozenset({"qcity_nb", "tqdm", "IPython", "ipykernel", "zmq", "tornado", "traitlets"})
"""Threads of these run no code of the notebook, and change none of its objects but their own."""


class Reach:
    """What has been within reach since the last `clear`; before the first, everything.

    Args:
        live: the notebook's namespace itself, not a copy.
    """

    def __init__(self, live: Mapping[str, Any]) -> None:
        self._live = live
        self._usual = {thread.ident for thread in threading.enumerate()}
        self._usual_frames = len(sys._current_frames())
        self._usual_frozen = gc.get_freeze_count()
        self._forever = ""
        self._ran = Mention()
        self._threads = ""
        self._start: dict[str, int] = {}
        self._census: reference_audit.Census | None = None
        self.why = ""
        """Why `reached` last said everything."""

    def ran(self, source: str) -> None:
        """Note that a cell ran, to its end or not.

        Args:
            source: the cell after IPython made it plain Python.
        """
        found = in_source(source)
        self._ran = self._ran | found
        if found.forever:
            self._forever = found.everything

    def clear(self) -> None:
        """Begin anew, with the variables as they are now.

        The caller must hold no reference to their values any more: it would look like a library's.
        """
        self._ran = Mention()
        self._start = {name: id(value) for name, value in self._live.items()}
        self._threads = self._new_threads()
        self._census = reference_audit.take(self._live)
        if gc.get_freeze_count() > self._usual_frozen:
            self._forever = "`gc.freeze` hides functions from the collector"

    def changed_names(self) -> frozenset[str] | None:
        """Names of variables that may have changed, deleted ones included; ``None``: any may have."""
        known = self._census
        if known is None:
            self.why = "nobody has looked at the variables yet"
            return None
        self.why = self._forever or self._threads or self._new_threads() or known.why or self._ran.everything
        return None if self.why else self._follow(known)

    def _follow(self, known: reference_audit.Census) -> frozenset[str] | None:
        names = set(self._ran.names)
        if names & _LOADS:
            names |= {name for name, number in known.roots.items() if number in known.leads or number in known.mentions}
        seen: set[int] = set()
        total, waits = self._ran, [known.roots[name] for name in names if name in known.roots]
        while waits:
            number = waits.pop()
            if number in seen:
                continue
            seen.add(number)
            more: set[str] = set(known.names.get(number, ()))
            mention = known.mentions.get(number)
            if mention is not None:
                total = total | mention
                more |= mention.names
            names |= more
            waits.extend(known.leads.get(number, ()))
            waits.extend(known.roots[name] for name in more if name in known.roots)
        self.why = total.everything
        if total.has_sys and total.has_modules:
            self.why = self.why or "`sys` and `modules` lead to every variable"
        if self.why:
            return None
        # Neither what a library holds and changes by itself, nor what IPython binds (`_`), runs code: not followed.
        names |= known.shared | {name for name, value in self._live.items() if self._start.get(name) != id(value)}
        return frozenset(names & (self._start.keys() | self._live.keys()))

    def _new_threads(self) -> str:
        """Why code may run beside the cells."""
        threads = threading.enumerate()
        for thread in threads:
            if thread.ident not in self._usual and not _is_quiet(thread):
                return f"the thread {thread.name} runs beside the cells"
        if len(sys._current_frames()) > self._usual_frames + sum(each.ident not in self._usual for each in threads):
            return "a thread runs beside the cells"
        return ""


def _is_quiet(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    homes = [type(thread).__module__] + ([str(getattr(target, "__module__", ""))] if target else [])
    return any(home.partition(".")[0] in _QUIET for home in homes)

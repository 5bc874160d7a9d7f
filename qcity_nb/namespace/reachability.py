"""Which variables can the code that ran have reached? The answer may be too large, but never too small.

Why that is sound. A variable changes if it is rebound, or if an object that it leads to changes.
1. Code of the notebook reaches variables by name. Every name in a cell counts, in whatever form (`cells/names.py`), in
   nested code too. What builds names from data (`eval`, `globals`, frames, `__main__`, unknown magics, …) reaches
   everything.
2. Other code of the notebook runs in a cell only if the cell can reach it. When `clear` is called,
   `reference_audit.py` checks that only variables hold such code (functions, so also classes and instances;
   generators): no library has a reference, so no hook, finalizer or signal handler can fire. If that fails, the answer
   is everything. Otherwise the cell reaches code only through variables that it names. These are followed, and the
   names in such code count in turn, until nothing is added.
3. Objects are reached through variables that count, or are new. A variable that shares a mutable object with one that
   counts must be counted too (the caller knows such groups). A variable that a library holds as well, as pyplot holds
   a figure, always counts.
4. Threads, tasks and timers run code at any time: everything.

Not covered: C extensions that keep borrowed pointers; memory changed from outside Python (other processes,
`np.frombuffer` over foreign memory); `eval` and the like inside a library's object, or deep in a large variable; code
that assembles names from pieces; libraries that look into `__main__` without being given a name (a debugger); objects
deep in a large variable, or inside a library's object, that a library also keeps in its own state and changes by
itself; instances of classes without methods of their own, in the same way. Therefore full checks from time to time.
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
"""Pickled data refers to the notebook's functions and classes in a way that is not visible here."""
_QUIET = frozenset({"qcity_nb", "tqdm", "IPython", "ipykernel", "zmq", "tornado", "traitlets"})
"""Threads of these packages do not run code of the notebook, and change only their own objects."""


class Reach:
    """What code could reach since the last `clear`; before the first `clear`, everything.

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
        self._audit: reference_audit.ReferenceAudit | None = None
        self.why = ""
        """Why `changed_names` last returned everything."""

    def ran(self, source: str) -> None:
        """Note that a cell ran, completely or not.

        Args:
            source: the cell after IPython has transformed it to plain Python.
        """
        mention = in_source(source)
        self._ran = self._ran | mention
        if mention.forever:
            self._forever = mention.everything

    def clear(self) -> None:
        """Start again, with the variables as they are now.

        The caller must not hold references to their values: these would count as a library's.
        """
        self._ran = Mention()
        self._start = {name: id(value) for name, value in self._live.items()}
        self._threads = self._new_threads()
        self._audit = reference_audit.audit_references(self._live)
        if gc.get_freeze_count() > self._usual_frozen:
            self._forever = "`gc.freeze` hides functions from the collector"

    def changed_names(self) -> frozenset[str] | None:
        """Names of variables that may have changed, deleted ones included; ``None``: any may have."""
        known = self._audit
        if known is None:
            self.why = "the variables were not checked yet"
            return None
        self.why = self._forever or self._threads or self._new_threads() or known.why or self._ran.everything
        return None if self.why else self._follow(known)

    def _follow(self, known: reference_audit.ReferenceAudit) -> frozenset[str] | None:
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
        # What a library holds and changes by itself, and what IPython binds (`_`), runs no code: not followed.
        names |= known.shared | {name for name, value in self._live.items() if self._start.get(name) != id(value)}
        return frozenset(names & (self._start.keys() | self._live.keys()))

    def _new_threads(self) -> str:
        """Why code may run in parallel to the cells; empty: it cannot."""
        threads = threading.enumerate()
        for thread in threads:
            if thread.ident not in self._usual and not _is_quiet(thread):
                return f"the thread {thread.name} runs in parallel to the cells"
        if len(sys._current_frames()) > self._usual_frames + sum(each.ident not in self._usual for each in threads):
            return "a thread runs in parallel to the cells"
        return ""


def _is_quiet(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    homes = [type(thread).__module__] + ([str(getattr(target, "__module__", ""))] if target else [])
    return any(home.partition(".")[0] in _QUIET for home in homes)

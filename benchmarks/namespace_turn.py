"""One engine's turn at one namespace, in a process of its own: `namespace.py` starts it and reads what it measured.

    python namespace_turn.py save ENGINE KIND FOLDER SIZE       # first, no-op, one scalar, a new column
    python namespace_turn.py restore ENGINE KIND FOLDER SIZE    # in a new process: into a new namespace

Prints one line of JSON. It imports neither torch nor anything of the other engines, so that a peer may have a Python of
its own. The state is made by cells; every engine sees the same ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMPORTS = "import numpy as np\nimport pandas as pd"
FRAME = """
rng = np.random.default_rng(1)
frame = pd.DataFrame(rng.normal(size=({rows}, 30)), columns=[f"c{{k}}" for k in range(30)])
"""
STATES = {
    "mixed": FRAME
    + """
from sklearn.ensemble import RandomForestClassifier
x, y = rng.normal(size=(5000, 10)), rng.integers(0, 2, 5000)
forest = RandomForestClassifier(60, max_depth=12, random_state=0).fit(x, y)
records = {{k: {{"id": k, "name": f"n{{k}}", "at": [k, k + 1]}} for k in range({rows} // 20)}}
""",
    "numbers": FRAME
    + """
arrays = {{k: rng.normal(size={rows} * 2) for k in range(4)}}
""",
    "strings": """
words = [f"word {{k * 7919 % 1000003}}" for k in range(int({rows} * 0.8))]
frame = pd.DataFrame({{"c0": np.arange(len(words)), "a": pd.Series(words, dtype=object)}})
other = pd.DataFrame({{"b": pd.Series(words[::-1], dtype=object)}})
del words
""",
}
STEPS = {
    "no-op": "pass",
    "one scalar": "frame.iat[5, 0] = 7",
    "new column": 'frame["new"] = frame["c0"] * 2.0',
}
CHECK = ("frame", "other", "forest", "records", "arrays")


def sent_bytes() -> int:
    """Bytes that this process has caused to be sent to a disk, by the kernel's account."""
    text = Path("/proc/self/io").read_text()
    return int(text.partition("write_bytes:")[2].split()[0])


def digest(namespace: dict[str, Any]) -> str:
    """What the variables hold, the same in any process."""
    import numpy as np

    hasher = hashlib.blake2b(digest_size=16)
    for name in (name for name in CHECK if name in namespace):
        value = namespace[name]
        hasher.update(name.encode())
        if name in ("frame", "other"):
            for column in value.columns:
                series = value[column]
                hasher.update(str(column).encode())
                hasher.update(repr(series.tolist()).encode() if series.dtype == object else series.to_numpy().tobytes())
        elif name == "forest":
            hasher.update(value.predict_proba(np.linspace(-2, 2, 1000).reshape(100, 10)).tobytes())
        elif name == "arrays":
            for each in value.values():
                hasher.update(each.tobytes())
        else:
            hasher.update(repr(value).encode())
    return hasher.hexdigest()


class Engine:
    """Saves and restores a namespace below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {}

    def run(self, cell: str) -> None:
        """Execute a cell."""
        exec(cell, self.namespace)

    def save(self) -> dict[str, float]:
        """A snapshot; returns the seconds that the notebook waits and those until it is safe."""
        raise NotImplementedError

    def step(self, cell: str) -> dict[str, float]:
        """A cell and the snapshot after it."""
        self.run(cell)
        before = sent_bytes()
        took = self.save()
        return {**took, "bytes": sent_bytes() - before}

    def restore(self) -> None:
        """Fill ``namespace``, which is empty."""
        raise NotImplementedError


class Ours(Engine):
    """What the kernel of ``--engine qcity`` does after a cell: without sidecar and mailbox."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        from qcity_nb.checkpoint.engine import Engine as Saver
        from qcity_nb.checkpoint.storage.local_tier import LocalTier
        from qcity_nb.kernel import ipython_history
        from qcity_nb.kernel.finished_cells import FinishedCells
        from qcity_nb.namespace.environment.process import ProcessSettings
        from qcity_nb.namespace.snapshot import NamespaceSnapshotter, hidden_by

        self.shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
        self.namespace = self.shell.user_ns
        self.tier = LocalTier(folder / "tier", term=1)
        self.saver = Saver(self.tier)
        hidden = ipython_history.user_owns(hidden_by(self.shell.user_ns_hidden))
        manifest = self.tier.newest()
        records = manifest.cells if manifest is not None else ()
        self.cells = FinishedCells(
            NamespaceSnapshotter(self.namespace, self.saver.freezer, hidden=hidden), ProcessSettings(folder), records
        )
        self.shell.events.register("pre_run_cell", self.heard)
        self.seq = 0
        self.cell_s = 0.0

    def heard(self, info: Any) -> None:
        """A cell is about to run."""
        self.cells.reach.ran(self.shell.transform_cell(info.raw_cell))

    def run(self, cell: str) -> None:
        began = time.perf_counter()
        self.shell.run_cell(cell).raise_error()
        self.cell_s = time.perf_counter() - began

    def save(self) -> dict[str, float]:
        from qcity_nb.checkpoint.storage.manifest import CellRecord, Manifest
        from qcity_nb.clock import iso_now
        from qcity_nb.kernel.engine_requests import WAIT_SHARE

        began = time.perf_counter()
        seq = self.seq = self.seq + 1
        self.cells.add_finished(seq - 1, CellRecord(chain=str(seq), number=seq), {})
        self.cells.take_snapshot(stored=self.tier.stored)
        snapshot = self.cells.snapshot()
        assert snapshot.snapshot is not None
        passed = len(snapshot.snapshot.kept)

        def draft() -> tuple[Any, Any, bytes]:
            objects: dict[str, Any] = {}
            records = snapshot.record(objects)
            return Manifest(run="", term=1, seq=seq, at=iso_now(), reason="cell", cells=records), objects, b""

        saving = self.saver.submit(draft, snapshot.used)
        with contextlib.suppress(TimeoutError):
            saving.wait(WAIT_SHARE * self.cell_s)  # the next cell may kill the kernel: what took long is worth a moment
        waited_s = time.perf_counter() - began
        self.cells.mark_saved(saving.wait().cells)
        durable_s = time.perf_counter() - began
        self.saver.finish()
        return {"waited_s": waited_s, "durable_s": durable_s, "passed_over": passed}

    def look(self) -> dict[str, float]:
        """A snapshot that trusts no cell: every variable is looked at, as every ``LOOK_EVERY``-th time."""
        from qcity_nb.kernel import finished_cells

        self.run(STEPS["no-op"])
        self.cells._unseen = finished_cells.LOOK_EVERY
        return {**self.save(), "bytes": 0}

    def restore(self) -> None:
        manifest = self.tier.load(max(self.tier.seqs()))
        messages = self.cells.restore(len(self.cells.records), self.tier.reader(manifest))
        assert not messages, messages

    def unpickle_s(self) -> float:
        """Seconds to make the objects again from bytes that are in memory: what no reading ahead can save."""
        from qcity_nb.checkpoint.encode import decode_state
        from qcity_nb.checkpoint.state import buffer_targets
        from qcity_nb.kernel.finished_cells import fold
        from qcity_nb.namespace import gc_pause
        from qcity_nb.namespace.unpickler import Restoring, load

        read = self.tier.reader(self.tier.load(max(self.tier.seqs())))
        captured = [decode_state(group.state, read) for group in fold(self.cells.records).values()]
        memory = [buffer_targets.read_buffers(each.skeleton, each.buffers).memory for each in captured]
        began = time.perf_counter()
        with gc_pause.still():
            made = [load(group.skeleton, lies, Restoring({})) for group, lies in zip(captured, memory, strict=True)]
        took_s = time.perf_counter() - began
        assert made
        return took_s


class Dill(Engine):
    """All variables but modules in one file, each time; fsynced, as ours are."""

    def save(self) -> dict[str, float]:
        import types

        import dill

        began = time.perf_counter()
        kept = {
            name: value
            for name, value in self.namespace.items()
            if name != "__builtins__" and not isinstance(value, types.ModuleType)
        }
        with (self.folder / "dill.new").open("wb") as file:
            dill.dump(kept, file, protocol=5)
            file.flush()
            os.fsync(file.fileno())
        (self.folder / "dill.new").replace(self.folder / "dill")
        took_s = time.perf_counter() - began
        return {"waited_s": took_s, "durable_s": took_s}

    def restore(self) -> None:
        import dill

        with (self.folder / "dill").open("rb") as file:
            self.namespace.update(dill.load(file))


class Kishu(Engine):
    """Kishu's own hooks in an IPython shell, in its test mode: it has no front end to ask for the notebook."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ.update(ENV_KISHU_TEST_MODE="1", KISHU_PATH_ROOT=str(folder))
        import nbformat
        from IPython.core.interactiveshell import InteractiveShell
        from kishu.jupyterint import KishuForJupyter
        from kishu.notebook_id import NotebookId

        notebook = folder / "bench.ipynb"
        if not notebook.exists():
            nbformat.write(nbformat.v4.new_notebook(), notebook)
        self.shell = InteractiveShell.instance()
        self.kishu = KishuForJupyter(NotebookId("bench", notebook, "kernel"), ip=self.shell)
        self.took_s, self.sent = 0.0, 0
        for name in ("pre_run_cell", "post_run_cell"):
            setattr(self.kishu, name, self.timed(getattr(self.kishu, name)))
        self.kishu.install_kishu_hooks()
        self.namespace = self.shell.user_ns

    def timed(self, hook: Callable[[Any], None]) -> Callable[[Any], None]:
        """The hook with a clock."""

        def inner(info: Any) -> None:
            began, sent = time.perf_counter(), sent_bytes()
            hook(info)
            self.took_s += time.perf_counter() - began
            self.sent += sent_bytes() - sent

        return inner

    def step(self, cell: str) -> dict[str, float]:
        self.took_s, self.sent = 0.0, 0
        self.shell.run_cell(cell, store_history=True).raise_error()
        return {"waited_s": self.took_s, "durable_s": self.took_s, "bytes": self.sent}

    def restore(self) -> None:
        newest = (self.folder / "newest").read_text()
        self.kishu.checkout(newest, skip_notebook=True)
        self.namespace = self.shell.user_ns


ENGINES = {"qcity_nb": Ours, "dill": Dill, "kishu": Kishu}


def drop(folder: Path) -> int:
    """Take all below a folder out of the page cache; returns its size in bytes."""
    size = 0
    for each in (each for each in folder.rglob("*") if each.is_file()):
        file = os.open(each, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        size += os.fstat(file).st_size
        os.close(file)
    return size


def read_s(folder: Path) -> float:
    """Seconds to read all that lies below a folder, with nothing of it in the page cache."""
    drop(folder)
    began = time.perf_counter()
    buffer = bytearray(8 << 20)
    for each in (each for each in folder.rglob("*") if each.is_file()):
        with each.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - began


def saved(engine: Engine, kind: str, rows: int) -> dict[str, Any]:
    """The four snapshots."""
    engine.step(IMPORTS)
    samples: dict[str, Any] = {"first": engine.step(STATES[kind].format(rows=rows))}
    samples.update({name: engine.step(cell) for name, cell in STEPS.items()})
    if isinstance(engine, Ours):
        samples["all looked at"] = engine.look()
    if isinstance(engine, Kishu):
        (engine.folder / "newest").write_text(engine.kishu._kishu_graph.head())
    return {"steps": samples, "digest": digest(engine.namespace), "size": drop(engine.folder)}


def restored(engine: Engine) -> dict[str, Any]:
    """A restore, and as much reading alone: twice before and twice after it, the median counts."""
    raw_s = [read_s(engine.folder) for _ in range(2)]
    drop(engine.folder)
    began = time.perf_counter()
    engine.restore()
    restore_s = time.perf_counter() - began
    result = {"restore_s": restore_s, "digest": digest(engine.namespace)}
    raw_s += [read_s(engine.folder) for _ in range(2)]
    if isinstance(engine, Ours):
        result["unpickle_s"] = engine.unpickle_s()
    return {**result, "read_s": statistics.median(raw_s), "fastest_s": min(raw_s)}


def main() -> None:
    """Take the turn that the command line names."""
    what, name, kind, folder, rows = sys.argv[1:]
    engine = ENGINES[name](Path(folder))
    exec(f"{IMPORTS}\nimport sklearn.ensemble", {})  # a new kernel has to import them, whatever the engine
    print(json.dumps(saved(engine, kind, int(rows)) if what == "save" else restored(engine)))


if __name__ == "__main__":
    main()

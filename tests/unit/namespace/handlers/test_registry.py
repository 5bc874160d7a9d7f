"""What pickle cannot save is handled by its kind: opened again, made fresh, taken from its own saver, or not saved."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import io
import logging
import mmap
import queue
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import typing
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from optional import nn, torch
from snapshot import Keep, in_new_process, kept, names, restored

from qcity_nb.namespace.snapshot import NamespaceSnapshotter
from qcity_nb.namespace.tombstone import not_saved_of


def why(live: dict[str, Any]) -> str:
    """Why the variable ``it`` came back as a tombstone."""
    not_saved = not_saved_of(live["it"])
    assert not_saved is not None
    return not_saved.why


@pytest.fixture
def opened() -> Iterator[Callable[..., IO[Any]]]:
    """Opens files, and closes them at the end."""
    files: list[IO[Any]] = []

    def open_(*args: Any, **named: Any) -> IO[Any]:
        files.append(open(*args, **named))  # noqa: SIM115, PTH123 - closed below
        return files[-1]

    yield open_
    for file in files:
        file.close()


def shut(live: dict[str, Any]) -> None:
    for value in live.values():
        if isinstance(value, io.IOBase | sqlite3.Connection):
            value.close()


# ------------------------------------------------------------------ files


def test_files_are_reopened_where_they_were(tmp_path: Path, opened: Callable[..., IO[Any]]) -> None:
    log, data, added, read = (tmp_path / name for name in ("log", "data", "added", "read"))
    read.write_text("grün\nzwei\n", encoding="latin-1")
    added.write_text("old ")
    live: dict[str, Any] = {
        "log": opened(log, "w", encoding="utf-8"),
        "data": opened(data, "w+b"),
        "added": opened(added, "a"),
        "read": opened(read, encoding="latin-1"),
        "raw": opened(read, "rb", buffering=0),
    }
    live["alias"] = live["log"]
    live["log"].write("one\ntwö\n")
    live["data"].write(b"0123456789")
    live["data"].seek(4)
    live["added"].write("new ")
    live["read"].readline()
    live["raw"].read(3)
    keep = kept(live)
    assert not keep.not_saved
    live["log"].write("lost")
    live["data"].write(b"XX")
    live["data"].seek(0, 2)
    live["data"].write(b"lost")
    live["added"].write("lost")
    shut(live)
    check = """
assert not not_saved, not_saved
assert alias is log and log.encoding == "utf-8"
log.write("three"); log.close()
assert data.read(2) == b"XX" and data.seek(0, 2) == 10
added.write("more"); added.close()
assert read.readline() == "zwei\\n" and read.encoding == "latin-1" and raw.tell() == 3
"""
    in_new_process(keep, check, tmp_path)
    assert log.read_text(encoding="utf-8") == "one\ntwö\nthree"
    assert data.read_bytes() == b"0123XX6789"
    assert added.read_text() == "old new more"


@pytest.mark.parametrize("loss", ["gone", "shorter", "folder"])
def test_a_file_that_is_not_what_it_was_is_not_saved(loss: str, tmp_path: Path, opened: Callable[..., IO[Any]]) -> None:
    path = tmp_path / "file"
    file = opened(path, "w")
    file.write("some text")
    keep = kept({"it": file, "fine": 1})
    file.close()
    path.unlink()
    if loss == "shorter":
        path.write_text("some")
    elif loss == "folder":
        path.mkdir()
    back = restored(keep)
    assert back["fine"] == 1
    assert str(path) in why(back)
    if loss == "shorter":
        assert "4 bytes, and had 9" in why(back)
        assert path.read_text() == "some"


def test_closed_files_stay_closed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    with (tmp_path / "text").open() as text, (tmp_path / "text").open("rb") as data:
        pass
    (tmp_path / "text").unlink()
    back = restored(kept({"text": text, "data": data}))
    assert back["text"].closed
    assert back["data"].closed
    assert back["text"].name == text.name
    assert back["text"].mode == "r"
    with pytest.raises(ValueError, match="closed"):
        back["text"].read()


def test_standard_streams_and_loggers_are_those_of_the_new_process(tmp_path: Path) -> None:
    live = {"out": sys.stdout, "err": sys.__stderr__, "log": logging.getLogger("a.b"), "logs": [logging.getLogger()]}
    check = "import sys, logging\nassert out is sys.stdout and err is sys.__stderr__\n"
    check += "assert log is logging.getLogger('a.b') and logs == [logging.getLogger()] and not not_saved"
    in_new_process(kept(live), check, tmp_path)


def test_buffers_in_memory_are_values() -> None:
    text, data = io.StringIO(), io.BytesIO(b"abc")
    text.write("xy")
    data.read(1)
    back = restored(kept({"text": text, "data": data}))
    assert back["text"].getvalue() == "xy"
    assert back["data"].read() == b"bc"


# ------------------------------------------------------------------ databases


def test_a_database_is_opened_again(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "base.db", isolation_level="IMMEDIATE")
    base.execute("create table t (n)")
    base.execute("insert into t values (7)")
    base.commit()
    base.row_factory = sqlite3.Row
    done = sqlite3.connect(":memory:")
    done.close()
    keep = kept({"base": base, "done": done})
    base.execute("insert into t values (8)")
    not_saved = NamespaceSnapshotter({"it": base}).capture().not_saved
    assert "transaction" in not_saved[0].why
    base.close()
    back = restored(keep)
    assert [row["n"] for row in back["base"].execute("select n from t")] == [7]
    assert back["base"].isolation_level == "IMMEDIATE"
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        back["done"].execute("select 1")
    shut(back)
    (tmp_path / "base.db").unlink()
    gone: dict[str, Any] = {}
    assert [each.name for each in NamespaceSnapshotter(gone).restore(keep.read(), {}, [])] == ["base"]
    assert not (tmp_path / "base.db").exists()


# ------------------------------------------------------------------ fresh


def test_locks_are_fresh_and_unlocked() -> None:
    lock, event = threading.Lock(), threading.Event()
    live: dict[str, Any] = {
        "lock": lock, "holder": {"lock": lock}, "rlock": threading.RLock(), "event": event,
        "condition": threading.Condition(), "semaphore": threading.Semaphore(3),
        "barrier": threading.Barrier(2, timeout=4.0), "unset": threading.Event(),
    }  # fmt: skip
    event.set()
    live["semaphore"].acquire()
    with lock, live["rlock"], live["condition"]:
        keep = kept(live)
    assert not keep.not_saved
    back = restored(keep)
    assert back["lock"] is back["holder"]["lock"]
    for name in ("lock", "rlock", "condition"):
        assert back[name].acquire(blocking=False)
    with back["semaphore"], back["semaphore"]:
        assert not back["semaphore"].acquire(blocking=False)
    assert back["event"].is_set()
    assert not back["unset"].is_set()
    assert (back["barrier"].parties, back["barrier"]._timeout) == (2, 4.0)


@pytest.mark.parametrize("make", [queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue])
def test_queues_keep_what_they_hold(make: Callable[[], Any]) -> None:
    line, item = make(), [2]
    line.put([1])
    line.put(item)
    back = restored(kept({"line": line, "item": item}))
    assert type(back["line"]) is make
    assert line.qsize() == back["line"].qsize() == 2
    result = [back["line"].get_nowait() for _ in range(2)]
    assert result == [line.get_nowait() for _ in range(2)]
    assert any(each is back["item"] for each in result)
    back["line"].put(3)
    assert back["line"].get_nowait() == 3


def test_weak_maps_keep_what_others_hold() -> None:
    class Key:
        pass

    key = Key()
    live = {"map": weakref.WeakKeyDictionary({key: 1}), "names": weakref.WeakValueDictionary({"a": key}), "key": key}
    back = restored(kept(live))
    assert back["map"][back["key"]] == 1
    assert back["names"]["a"] is back["key"]


# ------------------------------------------------------------------ savers


def test_torchscript_is_saved_its_own_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trace: Any = torch.jit.trace
        module = trace(nn.Linear(70, 70).eval(), torch.ones(1, 70))
        function = trace(lambda x: x + 1, torch.ones(1))
    snapshotter, keep = NamespaceSnapshotter({"module": module, "box": [module], "function": function}), Keep()
    keep.take(snapshotter.capture())
    assert set(keep.groups) == {("box", "module"), ("function",)}
    keep.take(snapshotter.capture())
    assert not any(keep.new.values()), "the same bytes"
    back = restored(keep)
    x = torch.ones(2, 70)
    assert torch.equal(back["module"](x), module(x))
    assert back["box"][0] is back["module"]
    assert not back["module"].training
    assert back["function"](x)[0, 0] == 2


@pytest.mark.parametrize("stepped", [0, 1, 3])
def test_a_scheduler_still_knows_whether_its_optimizer_has_stepped(stepped: int) -> None:
    weight: Any = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(stepped):
        weight.sum().backward()
        optimizer.step()
        schedule.step()
    back = restored(kept({"weight": weight, "optimizer": optimizer, "schedule": schedule}))
    assert back["schedule"].optimizer is back["optimizer"]
    back["weight"].sum().backward()
    weight.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each, other in ((optimizer, schedule), (back["optimizer"], back["schedule"])):
            each.step()
            other.step()
    assert torch.equal(back["weight"], weight)
    assert back["schedule"].get_last_lr() == schedule.get_last_lr()


def test_a_scheduler_that_steps_first_is_warned_about_in_a_new_kernel_too() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    back = restored(kept({"optimizer": optimizer, "schedule": schedule}))
    with pytest.warns(UserWarning, match=r"before `optimizer\.step\(\)`"):
        back["schedule"].step()


def test_figures_come_back() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is in the extra `all`")
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3])
    keep = kept({"figure": figure, "axes": axes})
    pyplot.close(figure)
    back = restored(keep)
    assert back["figure"].axes == [back["axes"]]
    assert back["axes"].lines[0].get_ydata().tolist() == [1, 2, 3]
    pyplot.close(back["figure"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "items",
    [
        [f"grün {n}" for n in range(600)],
        ["", *("same" for _ in range(599))],
        [None, float("nan"), *(f"x{n}" for n in range(598))],
        ["\ud800", *("y" for _ in range(599))],
        ["with \0 inside", *("z" for _ in range(599))],
        [1, *("mixed" for _ in range(599))],
    ],
)
def test_arrays_of_texts_come_back(items: list[Any], order: typing.Literal["C", "F"]) -> None:
    array = np.empty(600, dtype=object)
    array[:] = items
    array = array.reshape((20, 30), order=order)
    back = restored(kept({"it": array, "alias": array}))
    assert repr(back["it"].tolist()) == repr(array.tolist())
    assert back["it"] is back["alias"]
    assert back["it"].flags.f_contiguous == array.flags.f_contiguous
    assert back["it"].flags.writeable


# ------------------------------------------------------------------ refused


async def _coroutine() -> None: ...


async def _async_generator() -> Any:
    yield 1


def _loss() -> Any:
    return torch.ones(2, requires_grad=True) * 2


def _iterator() -> Any:
    data = torch.utils.data.TensorDataset(torch.arange(4.0))
    return iter(torch.utils.data.DataLoader(data, batch_size=2))


def _traceback() -> Any:
    try:
        raise ValueError
    except ValueError as error:
        return error.__traceback__


class Thing:
    """Can be referred to weakly."""


THING = Thing()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: (n for n in range(3)), "generator's frame"),
        (_coroutine, "coroutine's frame"),
        (_async_generator, "generator's frame"),
        (sys._getframe, "frame lives"),
        (_traceback, "traceback"),
        (lambda: threading.Thread(target=print), "thread"),
        (threading.local, "thread's own"),
        (lambda: concurrent.futures.ThreadPoolExecutor(1), "executor"),
        (concurrent.futures.Future, "future"),
        (asyncio.new_event_loop, "event loop"),
        (socket.socket, "socket"),
        (lambda: mmap.mmap(-1, 10), "mapped file"),
        (lambda: subprocess.Popen([sys.executable, "-c", ""]), "handle of a process"),
        (tempfile.NamedTemporaryFile, "temporary file"),
        (tempfile.TemporaryFile, "without a name"),
        (tempfile.SpooledTemporaryFile, "temporary file"),
        (tempfile.TemporaryDirectory, "temporary directory"),
        (lambda: sqlite3.connect(":memory:"), "in memory"),
        (lambda: memoryview(b"x"), "view of other"),
        (lambda: weakref.ref(THING), "weak reference"),
        (lambda: weakref.proxy(THING), "weak reference"),
        (lambda: contextvars.ContextVar("x"), "context variable"),
        (contextvars.copy_context, "context belongs"),
        (_loss, "autograd graph"),
        (_iterator, "DataLoader"),
    ],
)
def test_what_lives_in_one_process_is_not_saved(make: Callable[[], Any], why: str) -> None:
    bad = make()
    live: dict[str, Any] = {"it": bad, "cfg": {"reader": [bad]}, "part": functools.partial(print, bad), "fine": [1]}
    try:
        snapshot = NamespaceSnapshotter(live).capture()
        assert names(snapshot.groups) == {("fine",)}
        assert [each.name for each in snapshot.not_saved] == ["it", "cfg", "part"]
        for each, path in zip(snapshot.not_saved, ("", "cfg['reader'][0]: ", "part.args[0]: "), strict=True):
            assert each.why.startswith(path)
            assert why in each.why
            assert each.advice
    finally:
        for name in ("close", "cleanup", "wait", "shutdown"):
            if not isinstance(bad, weakref.ProxyType) and hasattr(bad, name):
                getattr(bad, name)()
                break


def test_widgets_are_not_saved() -> None:
    widgets = pytest.importorskip("ipywidgets", reason="ipywidgets is in the extra `panel`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slider = widgets.IntSlider()
    (not_saved,) = NamespaceSnapshotter({"it": slider}).capture().not_saved
    assert "front end" in not_saved.why


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    live: dict[str, Any] = {"a": [1], "f": threading.Lock(), "g": (n for n in range(2)), "q": queue.Queue()}
    check = (
        "import sys\nheavy = {'numpy', 'torch', 'pandas', 'IPython', 'ipywidgets', 'matplotlib'} & set(sys.modules)\n"
    )
    check += (
        "NamespaceSnapshotter(globals()).capture()\n"
        "assert not heavy and 'numpy' not in sys.modules, heavy\n"
        "print('fine')"
    )
    assert in_new_process(kept(live), check, tmp_path) == "fine\n"

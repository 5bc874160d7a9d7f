"""Kinds of objects that exist only in their process."""

from __future__ import annotations

from typing import Any, NoReturn

from qcity_nb.namespace.handlers.not_saved import Lost

__all__ = ["HANDLERS"]


def _refuse(why: str, advice: str) -> Any:
    def refuse(value: Any) -> NoReturn:
        raise Lost(why, advice)

    return refuse


_FRAME = "keep what it was made from, and create a new one"
_AGAIN = "re-run the cell that made it"
_START = "start it again"
_CONNECT = "keep its address, and connect again"

HANDLERS: dict[str, Any] = {
    "builtins.generator": _refuse("a generator's frame lives only in this process", _FRAME),
    "builtins.coroutine": _refuse("a coroutine's frame lives only in this process", _FRAME),
    "builtins.async_generator": _refuse("a generator's frame lives only in this process", _FRAME),
    "builtins.frame": _refuse("a frame lives only in this process", "keep what you need of it"),
    "builtins.traceback": _refuse("a traceback's frames live only in this process", "keep its text"),
    "threading.Thread": _refuse("a thread runs only in this process", _START),
    "_thread._local": _refuse("a thread's own values live only in this process", _AGAIN),
    "concurrent.futures._base.Executor": _refuse("an executor's workers live only with this process", _AGAIN),
    "concurrent.futures._base.Future": _refuse("a future is tied to work in this process", "keep its result"),
    "multiprocessing.process.BaseProcess": _refuse("a process cannot be saved", _START),
    "multiprocessing.pool.Pool": _refuse("a pool's workers live only with this process", _AGAIN),
    "asyncio.events.AbstractEventLoop": _refuse("an event loop runs only in this process", _AGAIN),
    "_asyncio.Future": _refuse("a future is tied to an event loop of this process", "keep its result"),
    "_asyncio.Task": _refuse("a task runs only in this process", _START),
    "_socket.socket": _refuse("a socket lives only in this process", _CONNECT),
    "ssl.SSLContext": _refuse("an SSL context lives only in this process", _AGAIN),
    "zmq.sugar.socket.Socket": _refuse("a socket lives only in this process", _CONNECT),
    "zmq.sugar.context.Context": _refuse("its sockets live only in this process", _AGAIN),
    "mmap.mmap": _refuse("a mapped file lives only in this process", "map the file again"),
    "builtins.memoryview": _refuse("a memoryview is a view of other memory", "keep the object that it views"),
    "subprocess.Popen": _refuse("it is the handle of a process that is not saved", _START),
    "tempfile._TemporaryFileWrapper": _refuse("a temporary file goes with its process", _AGAIN),
    "tempfile.SpooledTemporaryFile": _refuse("a temporary file goes with its process", _AGAIN),
    "tempfile.TemporaryDirectory": _refuse("a temporary directory goes with its process", _AGAIN),
    "sqlite3.Cursor": _refuse("a cursor belongs to a connection of this process", "keep its rows, or query again"),
    "weakref.ReferenceType": _refuse("a weak reference does not keep what it refers to", "keep the object itself"),
    "weakref.ProxyType": _refuse("a weak reference does not keep what it refers to", "keep the object itself"),
    "weakref.CallableProxyType": _refuse("a weak reference does not keep what it refers to", "keep the object itself"),
    "_contextvars.ContextVar": _refuse("a context variable belongs to this process", _AGAIN),
    "_contextvars.Context": _refuse("a context belongs to this process", _AGAIN),
    "_contextvars.Token": _refuse("a context variable's token belongs to this process", _AGAIN),
    "ipywidgets.widgets.widget.Widget": _refuse("a widget is tied to its front end and to this kernel", _AGAIN),
    "torch.utils.data.dataloader._BaseDataLoaderIter": _refuse(
        "the iterator of a DataLoader has its place, and its workers, only in this process",
        "create a new one with iter(), or use torchdata's StatefulDataLoader",
    ),
}

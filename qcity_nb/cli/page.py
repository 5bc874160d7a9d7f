"""``qcity page``: a small server that shows the store's runs and, with ``--keep``, is a keeper too."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from qcity_nb import hosts
from qcity_nb.cli.arguments import load_settings
from qcity_nb.cli.control import tracking_finisher
from qcity_nb.cli.page_html import listing, single
from qcity_nb.cli.page_reader import Reader
from qcity_nb.cli.progress import Progress
from qcity_nb.errors import QcityError, UsageError
from qcity_nb.hosts.hf_jobs.client import is_here
from qcity_nb.ports import Store
from qcity_nb.run.keeper import Keeper, Outcome
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store

__all__ = ["KeeperThread", "PageServer", "page"]

_PAUSE_S = 10.0
IDLE_S = 15.0
"""A connection that sends nothing for so long is closed."""
CONNECTIONS = 64
"""So many are open at a time; a further one is closed at once."""


class KeeperThread(threading.Thread):
    """A keeper of all runs of the store, until ``ending`` is set. It tries again if the store does not answer.

    Args:
        kinds: the kinds of host that it launches on; empty: all.
    """

    def __init__(self, store: Store, settings: Settings, kinds: tuple[str, ...] = ()) -> None:
        super().__init__(name="keeper", daemon=True)
        self.ending = threading.Event()
        self.trouble = ""
        """The newest error, for people."""
        self._note = Progress(sys.stdout, live=False)
        self._keeper = Keeper(
            store,
            settings,
            launchers=hosts.finder(settings, kinds),
            finish_tracking=tracking_finisher(store, settings),
            pause=self._rest,
        )

    def run(self) -> None:
        """Keep."""
        while not self.ending.is_set():
            try:
                self._keeper.keep(until=self._is_done, see=self._see)
            except QcityError as error:
                self.trouble = f"the keeper here: {error}"
                self.ending.wait(_PAUSE_S)

    def _rest(self, wait_s: float) -> None:
        self.ending.wait(wait_s)

    def _is_done(self, _last: Mapping[str, Outcome]) -> bool:
        return self.ending.is_set()

    def _see(self, outcome: Outcome) -> None:
        self.trouble = f"the keeper here: {outcome.run}: {outcome.error}" if outcome.error else ""
        self._note.see(outcome)


class PageServer(ThreadingHTTPServer):
    """Serves the page.

    Args:
        reader: reads the runs; called by one request at a time.
        notes, troubles: return lines for the top of the page; called at each request.

    Does not: let anybody change anything, or ask who they are. Whoever reaches the address sees the runs.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        reader: Reader,
        *,
        notes: Callable[[], list[str]] = list,
        troubles: Callable[[], list[str]] = list,
    ) -> None:
        self.reader = reader
        self.notes = notes
        self.troubles = troubles
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there are not too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that broke."""

    def server_bind(self) -> None:
        """Bind without a look-up of this host's name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """For a browser on this machine."""
        host = "127.0.0.1" if self.server_name in ("0.0.0.0", "::") else self.server_name  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect."""
        return is_here(self.url) and self.server_name not in ("0.0.0.0", "::")  # noqa: S104

    def document(self, path: str) -> str | None:
        """The page at a path; ``None`` if there is none."""
        with self._lock:
            shown = self.reader.read()
            address, notes = self.reader.address, self.notes()
            troubles = [self.reader.trouble, *self.troubles()]
        if path in ("", "/"):
            return listing(shown, address=address, notes=notes, troubles=troubles)
        run = next((each for each in shown if path == f"/run/{each.run}"), None)
        return single(run, address=address, notes=notes, troubles=troubles) if run else None


def _policy(environ: Mapping[str, str]) -> str:
    """What a browser may do with the page. A Space is shown within a page of huggingface.co."""
    frames = "https://huggingface.co" if environ.get("SPACE_ID") else "'none'"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
    )


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version = "qcity"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    timeout = IDLE_S

    def _answer(self, *, with_body: bool) -> None:
        try:
            address = f"http://{self.headers.get('Host', '')}"
            is_named_so = is_here(address) and urlsplit(address).port != 0
        except ValueError:
            self.send_error(400, "Malformed Host")
            return
        if self.server.is_private and not is_named_so:
            # DNS rebinding: a website has made its own name point to this address, to read the page.
            self.send_error(403, "Not for this name")
            return
        text = self.server.document(unquote(urlsplit(self.path).path))
        if text is None:
            self.send_error(404)
            return
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _policy(os.environ))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: a page that reloads itself would fill the log."""


def page(args: argparse.Namespace) -> int:
    """``qcity page``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    keeper = KeeperThread(store, settings, args.keep) if args.keep is not None else None
    kinds = ", ".join(args.keep or ()) or "all hosts"
    try:
        server = PageServer(
            (args.host, args.port),
            Reader(store),
            notes=lambda: [f"a keeper for {kinds} runs here"] if keeper else [],
            troubles=lambda: [keeper.trouble] if keeper else [],
        )
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {args.host} port {args.port}: {error}; choose another --port") from None
    with server:
        print(f"{server.url} shows the runs of {server.reader.address}; Ctrl-C ends it", flush=True)
        if keeper is not None:
            keeper.start()
        try:
            server.serve_forever()
        finally:
            if keeper is not None:
                keeper.ending.set()
    return 0

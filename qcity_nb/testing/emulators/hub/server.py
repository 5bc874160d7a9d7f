"""The emulator's server: two loopback listeners, the Hub and its storage, over ``http.server``."""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

from qcity_nb.testing.emulators.hub import routes
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.emulator import BEFORE, STARTING, Hub, Options
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.web import FileRange, Gone, HubError, Request, Response, User, find_route

__all__ = ["HubServer"]

log = logging.getLogger(__name__)
log.debug("hub emulator: routes of %s", ", ".join(routes.MODULES))

DRAIN_BYTES = 1 << 20
"""A body that nobody read is read away up to this size, to keep the connection; past it the connection closes."""


class HubServer:
    """The Hub emulator, on 127.0.0.1.

    Args:
        folder: where everything is kept; made if it is not there. One server at a time.
        port: 0: a free one.
        users: by default any token is one user.
        faults: what shall go wrong; can be set while it runs.
        end_jobs: end the jobs that it started when it stops; else they continue, and the next server finds them.

    Raises:
        OSError: the port is in use.
        UsageError: another server has the folder.
    A request that a website sent through a browser is refused: one for another host's name, or from another origin.
    Does not: check TLS. With the default for ``users`` every program on this machine can use it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        users: Users | None = None,
        faults: Faults | None = None,
        options: Options | None = None,
        end_jobs: bool = False,
    ) -> None:
        # Jobs that it starts have working directories of their own.
        self.hub = Hub(
            folder.absolute(), users=users or Users.anybody(), faults=faults or Faults(), options=options or Options()
        )
        self.hub.ends_jobs = end_jobs
        self.faults = self.hub.faults
        try:
            self._listener = _Listener(port, self.hub, storage=False)
        except OSError:
            self.hub.close()
            raise
        try:
            self._storage = _Listener(self._storage_port(), self.hub, storage=True)
        except OSError:  # somebody else's by now
            self._storage = _Listener(0, self.hub, storage=True)
        self.hub.url, self.hub.storage_url = self._listener.url, self._storage.url
        self._remember_port()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return self._listener.url

    def _storage_port(self) -> int:
        # Addresses of uploads under way must be good after a restart, as the real storage's are.
        return int(self.hub.remember("storage_port", lambda: "0"))

    def _remember_port(self) -> None:
        with self.hub.db.write() as db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'storage_port'", (str(self._storage.server_port),))

    def start(self) -> HubServer:
        """Answer, in threads of its own."""
        for listener in (self._listener, self._storage):
            thread = threading.Thread(
                target=listener.serve_forever, kwargs={"poll_interval": 0.05}, name="hub-listener", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        for begin in STARTING:
            begin(self.hub)
        log.info("hub emulator (not the Hugging Face Hub) on %s, kept in %s", self.url, self.hub.folder)
        return self

    def stop(self) -> None:
        """Stop listening, drop what connections there are, wait for the requests under way."""
        self.hub.stopping.set()
        for listener in (self._listener, self._storage):
            if self._threads:
                listener.shutdown()
            listener.drop_all()
            listener.server_close()  # joins the requests' threads
        for thread in self._threads:
            thread.join()
        self._threads = []
        self.hub.close()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Listener(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    block_on_close = True
    request_queue_size = 128

    def __init__(self, port: int, hub: Hub, *, storage: bool) -> None:
        self.hub = hub
        self.storage = storage
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def server_bind(self) -> None:
        # Not the parent's: it looks the address up by name, which can take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self.hub.db.forget()

    def drop_all(self) -> None:
        """Wake the threads that wait for a next request."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("hub emulator: a connection broke", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "qcity-hub-emulator"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "Hub emulator (not the Hugging Face Hub): %(code)d %(message)s\n"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and small bodies leave in one packet

    def setup(self) -> None:
        super().setup()
        self.listener = cast("_Listener", self.server)
        self.hub = self.listener.hub

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("hub emulator: %s", format % args)

    def _answer(self) -> None:
        began = time.monotonic()
        faults = self.hub.faults
        kind = "storage" if self.listener.storage else ""
        if faults.strike("down", kind) is not None:
            self.close_connection = True
            return
        request: Request | None = None
        try:
            request, response = self._handle()
        except HubError as error:
            response = _error(error)
        except (Gone, ConnectionError):
            self.close_connection = True
            return
        except Exception:  # a bug of the emulator: a 500, as the Hub answers its own, and the log has it
            log.exception("hub emulator: %s %s failed", self.command, self.path)
            response = _error(HubError(500, "Internal Error - We're working hard to fix this as soon as possible!"))
        status = response.status
        try:
            self._send(request, response)
        except (Gone, ConnectionError):
            self.close_connection = True
        level = logging.WARNING if status >= 500 else logging.INFO
        took_ms = 1000 * (time.monotonic() - began)
        log.log(level, "hub emulator: %s %s -> %d, %.0f ms", self.command, self.path.partition("?")[0], status, took_ms)

    def _handle(self) -> tuple[Request, Response]:
        headers = cast("Mapping[str, str]", self.headers)
        host = self.headers.get("Host") or ""
        if not _is_local(f"//{host}") or not all(_is_local(origin) for origin in self.headers.get_all("Origin", [])):
            raise HubError(403, "The emulator answers programs on this machine, for 127.0.0.1 or localhost only")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise HubError(403, "The emulator answers no requests that a website sends")
        origin = f"http://{host}"
        request = Request(self.command, self.path, headers, cast("Any", self.rfile), user=None, origin=origin)
        self._request = request
        match = find_route(self.command, request.raw_path, storage=self.listener.storage)
        if match is None:
            log.warning("hub emulator: no route for %s %s", self.command, request.raw_path)
            raise HubError(404, "Sorry, we can't find the page you are looking for.")
        route, groups = match
        if not self.listener.storage:
            request.user = self._user()
        for check in BEFORE:
            early = check(self.hub, request, route.kind)
            if early is not None:
                return request, early
        return request, route.handler(self.hub, request, **groups)

    def _user(self) -> User | None:
        header = self.headers.get("Authorization") or ""
        scheme, _, token = header.partition(" ")
        if not header:
            return None
        user = self.hub.users.find(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _send(self, request: Request | None, response: Response) -> None:
        request = request or getattr(self, "_request", None)
        if request is not None and request.has_unread and not self._drained(request):
            self.close_connection = True
            response.headers["Connection"] = "close"
        body = response.body
        self.send_response(response.status)
        headers = {"X-Qcity-Emulator": "1", "X-Request-Id": f"Root=emulator-{uuid.uuid4().hex}", **response.headers}
        if request is not None:
            headers |= request.reply_headers
        names = {name.lower() for name in headers}
        chunked = False
        if response.status != 304 and response.status != 204 and "content-length" not in names:
            if isinstance(body, bytes):
                headers["Content-Length"] = str(len(body))
            elif isinstance(body, FileRange):
                headers["Content-Length"] = str(body.length)
            else:
                headers["Transfer-Encoding"] = "chunked"
                chunked = True
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, chunked=chunked)
        self.wfile.flush()

    def _drained(self, request: Request) -> bool:
        count = 0
        for part in request.stream():
            count += len(part)
            if count > DRAIN_BYTES:
                return False
        return True

    def _send_body(self, body: bytes | Iterator[bytes] | FileRange, *, chunked: bool) -> None:
        if isinstance(body, bytes):
            self.wfile.write(body)
        elif isinstance(body, FileRange):
            self.wfile.flush()
            if not body.length:  # an error to sendfile, which would end the connection after a good answer
                return
            with body.path.open("rb") as file:
                self.connection.sendfile(file, body.start, body.length)
        else:
            for part in body:
                if part:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                    self.wfile.flush()
            if chunked:
                self.wfile.write(b"0\r\n\r\n")


def _is_local(address: str) -> bool:
    """Is it an address of this machine? Not so a name that somebody lets point to it."""
    try:
        parts = urlsplit(address)
        return parts.hostname in ("127.0.0.1", "localhost", "::1") and (parts.port or 1) > 0
    except ValueError:
        return False


def _error(error: HubError) -> Response:
    message = " ".join(error.message.split()).encode("latin-1", "replace").decode("latin-1")  # as headers must be
    headers = {"X-Error-Message": message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return Response.json({"error": error.message, **error.extra}, error.status, headers)

"""Requests, responses, errors and routes of the Hub emulator; nothing here knows what a repository is.

A route's pattern is matched against the path as it was sent, still quoted, so that ``run%2Fx`` is one segment; what
its groups matched is unquoted before the handler sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = [
    "FileRange",
    "Gone",
    "Handler",
    "HubError",
    "Kind",
    "Request",
    "Response",
    "Role",
    "Route",
    "User",
    "find_route",
    "page_of",
    "route",
]

Role = Literal["read", "write", "fineGrained"]

Kind = Literal["api", "read", "commit", "resolve", "lfs", "xet", "jobs", "storage"]
"""What a route is for, so that a fault may strike one kind alone: ``read`` is information about a repository,
``resolve`` a file, ``storage`` what the other listener answers, and ``api`` the rest."""


@dataclass(frozen=True, slots=True)
class User:
    """Who a token speaks for.

    Args:
        orgs: names; ``acme:read`` is a member who may only read, ``acme`` one who may write.
        scopes: of a fine-grained token, as ``repo.write`` (on everything of the user's own) or
            ``acme/model:repo.content.read`` (on one repository, organization or user).
    """

    name: str
    role: Role = "write"
    orgs: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


class HubError(Exception):
    """Raised anywhere below a handler; answered as the Hub answers errors, in headers and as JSON.

    Args:
        code: the X-Error-Code header, by which the client tells errors apart; may be empty.
        extra: more members of the JSON answer.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        *,
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})


class Gone(Exception):
    """Raised by a handler to drop the connection without a reply."""


class FileRange(NamedTuple):
    """A body that is a part of a file; sent by the kernel, never held in memory."""

    path: Path
    start: int
    length: int


@dataclass(slots=True)
class Response:
    """An answer. An iterator's parts are sent as they come, chunked."""

    status: int = 200
    body: bytes | Iterator[bytes] | FileRange = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """``value`` as JSON."""
        body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


class Request:
    """One request. Its body is read once, by ``read``, ``json``, ``form`` or ``stream``.

    Attributes:
        path: unquoted, without the query; for people. Routes match ``raw_path``.
        query: the last value of each name; ``queries`` has all of them.
        user: whom the token speaks for; None without a token.
        origin: the address that the client used, as ``http://127.0.0.1:8000``.
        reply_headers: put on the answer, whatever it will be.
    """

    def __init__(
        self, method: str, target: str, headers: Mapping[str, str], body: BinaryIO, *, user: User | None, origin: str
    ) -> None:
        parts = urlsplit(target)
        self.method = method
        self.raw_path = parts.path
        self.raw_query = parts.query
        self.path = unquote(parts.path)
        self.queries = parse_qs(parts.query, keep_blank_values=True)
        self.query = {name: values[-1] for name, values in self.queries.items()}
        self.headers = headers
        self.user = user
        self.origin = origin
        self.reply_headers: dict[str, str] = {}
        self._body = body
        length = headers.get("Content-Length")
        self._chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
        self._left = 0 if self._chunked else int(length) if length and length.isdecimal() else 0
        self.size: int | None = None if self._chunked else self._left

    def flag(self, name: str) -> bool:
        """Whether the query says yes to ``name``, in one of the ways that clients do."""
        return self.query.get(name, "").lower() in ("1", "true", "yes")

    def stream(self, chunk: int = 1 << 16) -> Iterator[bytes]:
        """The body in parts of at most ``chunk`` bytes.

        Raises:
            Gone: the client closed the connection before the body's end.
        """
        while self._chunked:
            line = self._body.readline(1 << 10)
            try:
                size = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                raise Gone("the body's chunks ended early") from None
            if size == 0:
                while self._body.readline(1 << 16).strip():
                    pass  # trailers
                self._chunked = False
                return
            self._left = size
            yield from self._counted(chunk)
            self._body.readline(8)
        yield from self._counted(chunk)

    def _counted(self, chunk: int) -> Iterator[bytes]:
        while self._left:
            part = self._body.read(min(chunk, self._left))
            if not part:
                raise Gone("the body ended early")
            self._left -= len(part)
            yield part

    @property
    def has_unread(self) -> bool:
        """Whether a part of the body is still on the line, so that no next request can be read."""
        return self._chunked or self._left > 0

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.stream())

    def json(self) -> Any:
        """The body, decoded; an empty one is an empty object.

        Raises:
            HubError: 400, it is no JSON.
        """
        data = self.read()
        if not data.strip():
            return {}
        try:
            return json.loads(data)
        except ValueError:
            raise HubError(400, "The request body is not valid JSON") from None

    def form(self) -> dict[str, list[str]]:
        """The body as a form, or as JSON whose members are strings or lists of them: the Hub takes both."""
        if "json" in (self.headers.get("Content-Type") or ""):
            value = self.json()
            members = value.items() if isinstance(value, dict) else ()
            lists = {name: values if isinstance(values, list) else [values] for name, values in members}
            return {name: [str(each) for each in values] for name, values in lists.items()}
        return parse_qs(self.read().decode("utf-8", "replace"), keep_blank_values=True)


Handler = Callable[..., Response]
"""``handler(hub, request, **groups)``."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path and who answers."""

    method: str
    pattern: re.Pattern[str]
    kind: Kind
    handler: Handler


_ROUTES: list[Route] = []


def route(method: str, pattern: str, *, kind: Kind = "api") -> Callable[[Handler], Handler]:
    """Collect a handler. ``pattern`` is a regular expression for the whole quoted path; HEAD is answered by GET's."""

    def collect(handler: Handler) -> Handler:
        _ROUTES.append(Route(method, re.compile(pattern), kind, handler))
        return handler

    return collect


def find_route(method: str, raw_path: str, *, storage: bool) -> tuple[Route, dict[str, str]] | None:
    """The route for a request and what its groups matched, unquoted; None if there is none."""
    served_method = "GET" if method == "HEAD" else method
    for route in _ROUTES:
        if route.method == served_method and (route.kind == "storage") == storage:
            match = route.pattern.fullmatch(raw_path)
            if match:
                return route, {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
    return None


def page_of(request: Request, items: list[Any], size: int) -> tuple[list[Any], dict[str, str]]:
    """One page of ``items`` and the Link header that leads to the next, as the Hub paginates.

    The cursor is opaque to clients; here it is where the next page begins.
    """
    limit = request.query.get("limit", "")
    if limit.isdecimal() and int(limit):
        size = min(size, int(limit))
    cursor = request.query.get("cursor", "0")
    if not cursor.isdecimal():
        raise HubError(400, "Invalid cursor")
    start = int(cursor)
    if start + size >= len(items):
        return items[start:], {}
    kept = [part for part in request.raw_query.split("&") if part and not part.startswith("cursor=")]
    query = "&".join([*kept, f"cursor={start + size}"])
    link = f'<{request.origin}{request.raw_path}?{query}>; rel="next"'
    return items[start : start + size], {"Link": link}

"""What every handler is given: the emulator's folder, database, users and faults, and who may do what."""

from __future__ import annotations

import fcntl
import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qcity_nb.errors import UsageError
from qcity_nb.testing.emulators.hub.accounts import Users, allowed, role_in
from qcity_nb.testing.emulators.hub.database import Database, table
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.web import HubError, Kind, Request, Response, User

__all__ = ["BEFORE", "Event", "Hub", "Options", "STARTING", "before", "starting"]

table("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")


@dataclass(slots=True)
class Options:
    """What the real Hub decides for itself, and tests make small.

    Args:
        lfs_threshold: files above it are LFS whatever their name.
        part_size: LFS uploads above it are in parts of it; it is the client's ``chunk_size``.
        tree_page: entries of a page of a tree; ``expanded_page`` with their last commits.
        storage_limit: bytes that a namespace may hold; None: no limit.
        rate_limits: requests that a user may make, by the kind of route, in ``rate_window_s``; none: no limit.
        release_s: how long the storage of deleted history stays counted; the real Hub says within 36 hours.
        forget_commits_s: how long a commit that no branch leads to can still be read by its id.
        xet: whether repositories are Xet-enabled.
        now: the time of day that scheduled jobs go by; aware.
    """

    lfs_threshold: int = 10_000_000
    part_size: int = 16_000_000
    tree_page: int = 1000
    expanded_page: int = 50
    storage_limit: int | None = None
    rate_limits: dict[str, int] = field(default_factory=dict)
    rate_window_s: float = 300.0
    release_s: float = 36 * 3600.0
    forget_commits_s: float = 0.0
    xet: bool = True
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a repository, of which webhooks may tell.

    Args:
        action: ``create``, ``update`` or ``delete``.
        scope: ``repo``, ``repo.content`` or ``repo.config``.
        details: more of the payload; ``updatedRefs`` of ``repo.content``.
    """

    action: str
    scope: str
    repo_type: str
    repo_id: str
    user: str
    details: dict[str, Any] = field(default_factory=dict)


class Hub:
    """The emulator's state. Handlers share it; it is safe between threads.

    Attributes:
        url: where the Hub answers; set when the server listens.
        stopping: set when the server stops; whatever waits, waits for this too.
        storage_url: where content is put and fetched: another origin, as the real Hub's storage is.
        closing: called in reverse order when the server stops.
        parts: what modules keep for as long as the server runs, by their names.
        ends_jobs: whether jobs that the server started end with it.
    """

    def __init__(self, folder: Path, *, users: Users, faults: Faults, options: Options) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise UsageError(f"another emulator is running on {folder}: end it, or name another directory") from None
        self.folder = folder
        self.users = users
        self.faults = faults
        self.options = options
        self.url = ""
        self.storage_url = ""
        self.closing: list[Callable[[], None]] = []
        self.parts: dict[str, object] = {}
        self.ends_jobs = False
        self.stopping = threading.Event()
        self.db = Database(folder / "hub.sqlite")
        self.secret = self.remember("secret", secrets.token_hex)
        self._listeners: list[Callable[[Event], None]] = []

    def close(self) -> None:
        """Call what ``closing`` has, and let go of the folder."""
        while self.closing:
            self.closing.pop()()
        self.db.close()
        self._lock.close()

    def remember(self, name: str, make: Callable[[], str]) -> str:
        """What is kept under ``name`` from the first start on; made if there is nothing yet."""
        with self.db.write() as db:
            row = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            if row is not None:
                return str(row["value"])
            value = make()
            db.execute("INSERT INTO meta (name, value) VALUES (?, ?)", (name, value))
            return value

    def sign(self, *parts: str) -> str:
        """A signature that only this emulator can make, for addresses that carry their own permission."""
        return hashlib.sha256("\0".join([self.secret, *parts]).encode()).hexdigest()

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Call ``listener`` after each change of a repository that was committed; it must not raise or wait."""
        self._listeners.append(listener)

    def announce(self, event: Event) -> None:
        """Tell the listeners."""
        for listener in list(self._listeners):
            listener(event)

    def require(
        self, request: Request, need: str = "write", *, owner: str | None = None, entity: str = "", scope: str = ""
    ) -> User:
        """The user of the request, if it may do this.

        Args:
            need: ``read`` or ``write``: what the token's role must allow.
            owner: the user or organization that it is done to; None: nobody's in particular.
            entity: the repository, for tokens whose scopes name one.
            scope: what a fine-grained token must have, as ``repo.write`` or ``job.write``; by default repositories'.

        Raises:
            HubError: 401 without a token, 403 where it does not suffice.
        """
        user = request.user
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not allowed(user, need, owner=owner or user.name, entity=entity, scope=scope):
            raise HubError(403, _refusal(user, owner or user.name))
        return user

    def can(self, user: User | None, need: str, *, owner: str, entity: str = "", scope: str = "") -> bool:
        """As ``require``, without an error."""
        return user is not None and allowed(user, need, owner=owner, entity=entity, scope=scope)


STARTING: list[Callable[[Hub], None]] = []
BEFORE: list[Callable[[Hub, Request, Kind], Response | None]] = []


def starting(begin: Callable[[Hub], None]) -> Callable[[Hub], None]:
    """Have ``begin(hub)`` called at each start of a server; it puts what must be ended into ``hub.closing``."""
    STARTING.append(begin)
    return begin


def before(check: Callable[[Hub, Request, Kind], Response | None]) -> Callable[[Hub, Request, Kind], Response | None]:
    """Have ``check`` see each request that has a route, before its handler; a response of its own ends the request."""
    BEFORE.append(check)
    return check


def _refusal(user: User, owner: str) -> str:
    """Why a write is refused, in the Hub's words."""
    if role_in(user, owner) != "write":
        return "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"
    if user.role == "read":
        return "Forbidden: you must use a write token to upload to a repository."
    return "Forbidden: this token does not have the required permissions"

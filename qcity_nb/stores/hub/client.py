"""Calls of the Hub's own client, with time limits, within the Hub's rate limits, and with this project's errors.

The client waits indefinitely for a reply, raises the errors of three HTTP libraries depending on its version, and never
repeats the request that commits (huggingface_hub 2.4, ``_send_commit``): the caller has to find out whether the commit
was made.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

from qcity_nb.clock import Clock, SystemClock, within
from qcity_nb.errors import Conflict, Missing, QcityError, StoreError, StoreRefused, StoreUnavailable
from qcity_nb.stores.hub.address import HubAddress
from qcity_nb.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Exists", "HubClient", "NoEntry", "NoRepository", "NoRevision", "Reply", "Stale"]

T = TypeVar("T")

ANSWER_S = 90.0
"""How long a call without content may take: the Hub itself ends a request after 60 s, and may still commit."""
SLOWEST_BYTES_PER_S = 100_000
"""A slower upload or download counts as hanging."""
_LONGEST_WAIT_S = 3600.0
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class NoRepository(Missing):
    """There is no such repository, or none that this token may see: the Hub does not distinguish them."""


class NoRevision(Missing):
    """The repository has no such branch or commit."""


class NoEntry(Missing):
    """The commit has no such file."""


class Stale(Conflict):
    """The branch does not point to the parent of the commit."""


class Exists(Conflict):
    """It already exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A file as the Hub's resolver returns it."""

    content: bytes
    commit: str
    """The commit from which it was read."""
    now_s: float | None
    """The Hub's clock, in whole seconds."""


class HubClient:
    """One repository.

    Args:
        address: which.
        clock: for waits that the Hub asks for.
    """

    def __init__(self, address: HubAddress, *, clock: Clock | None = None) -> None:
        self.address = address
        self._clock = clock or SystemClock()
        self._closed_until_s = float("-inf")
        self._api: HfApi | None = None
        self._lock = threading.Lock()

    @property
    def api(self) -> HfApi:
        """The client, imported when first needed.

        Raises:
            StoreRefused: it is too old for an endpoint other than the environment's.
        """
        with self._lock:
            if self._api is None:
                from huggingface_hub import HfApi, constants
                from huggingface_hub import __version__ as installed

                endpoint = self.address.endpoint
                if endpoint not in ("", constants.ENDPOINT) and installed.startswith("0."):
                    # It parses each answer as one of constants.ENDPOINT, and raises after the commit was made.
                    raise StoreRefused(
                        f"huggingface_hub {installed} reads another endpoint only from the environment: set "
                        f"HF_ENDPOINT={endpoint} before Python starts, or pip install -U huggingface_hub"
                    )
                self._api = HfApi(
                    endpoint=self.address.endpoint or None, library_name="qcity_nb", library_version=__version__
                )
            return self._api

    def has_token(self) -> bool:
        """Is anybody logged in here?"""
        from huggingface_hub import get_token

        return bool(get_token())

    def ask(self, what: str, call: Callable[[], T], *, size_bytes: int = 0) -> T:
        """The client's answer.

        Args:
            what: what the call does, for messages.
            size_bytes: how much is uploaded or downloaded.
        Raises:
            NoRepository, NoRevision, NoEntry, Stale, Exists: see there; nothing has changed.
            StoreRefused: the Hub forbids it; trying again does not help.
            StoreUnavailable: the outcome is unknown; ``retry_after_s`` says how long the Hub asks to wait.
            OSError: this machine's own disk is full, or not writable.
        """
        left_s = self._closed_until_s - self._clock.now_s()
        if left_s > 0:
            raise StoreUnavailable(
                f"{self.address.short}: the Hub's rate limit is used up; next request in {left_s:.0f} s",
                retry_after_s=left_s,
            )
        limit_s = ANSWER_S + size_bytes / SLOWEST_BYTES_PER_S
        try:
            return within(limit_s, call, name="hub")
        except TimeoutError as error:
            raise StoreUnavailable(f"{self.address.short}: {what}: {error}") from None
        except Exception as error:
            raise self._translate(error, what) from error

    def get(self, path: str, revision: str) -> Reply:
        """A file's content, and the commit in which ``revision`` has it, in one request.

        Raises: see ``ask``.
        """

        def call() -> tuple[bytes, Mapping[str, str], Mapping[str, str]]:
            from huggingface_hub import hf_hub_url
            from huggingface_hub import utils as typed

            utils: Any = typed  # documented, and not marked as exported

            url = hf_hub_url(
                self.address.repo,
                path,
                repo_type=self.address.kind,
                revision=revision,
                endpoint=self.api.endpoint,
            )
            headers = utils.build_hf_headers(library_name="qcity_nb", library_version=__version__)
            # Not compressed: a compressed body has another length and ETag.
            response: Any = utils.get_session().get(url, headers={**headers, "Accept-Encoding": "identity"}, timeout=30)
            utils.hf_raise_for_status(response)
            # Large content comes after a redirect, and only the first answer names the commit.
            first = response.history[0] if response.history else response
            return response.content, first.headers, response.headers

        content, first, last = self.ask(f"reading {path!r}", call)
        self._heed(first)
        return Reply(content=content, commit=first.get("X-Repo-Commit", ""), now_s=_date_s(first) or _date_s(last))

    # --- errors

    def _heed(self, headers: Mapping[str, str]) -> float:
        """Remember how long the Hub asks to wait, and return it; 0: not at all."""
        wait_s = 0.0
        after = headers.get("Retry-After", "")
        if after.isdecimal():
            wait_s = float(after)
        # IETF draft "RateLimit header fields": how many requests are left, and in how many seconds there are more.
        if match := re.search(r";\s*r=(\d+)\s*;\s*t=(\d+)", headers.get("RateLimit", "")):
            wait_s = max(wait_s, float(match[2]) if match[1] == "0" else 0.0)
        wait_s = min(wait_s, _LONGEST_WAIT_S)
        if wait_s > 0:
            self._closed_until_s = max(self._closed_until_s, self._clock.now_s() + wait_s)
        return wait_s

    def _translate(self, error: Exception, what: str) -> Exception:
        from huggingface_hub import errors

        where = f"{self.address.short}: {what}"
        if isinstance(error, QcityError):
            return error
        if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
            return error
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(error, errors.LocalEntryNotFoundError) or (response is None and not _is_client_error(error)):
            # Also: no connection, a broken one, and every network error of the Xet library.
            return StoreUnavailable(f"{where}: {_summarize(error)}")
        if isinstance(error, errors.LocalTokenNotFoundError):
            return StoreRefused(f"{where}: no token; run `hf auth login`, or set HF_TOKEN")
        reply = str(getattr(error, "server_message", None) or "") or _summarize(error)
        return self._translate_status(error, status, where, reply, getattr(response, "headers", {}))

    def _translate_status(
        self, error: Exception, status: int | None, where: str, reply: str, headers: Mapping[str, str]
    ) -> StoreError:
        from huggingface_hub import errors

        if isinstance(error, errors.RepositoryNotFoundError):
            return NoRepository(f"{where}: no such repository, or none that this token may see")
        if isinstance(error, errors.RevisionNotFoundError):
            return NoRevision(f"{where}: no such branch or commit")
        if isinstance(error, errors.EntryNotFoundError):
            return NoEntry(f"{where}: no such file")
        if status == 412:
            return Stale(f"{where}: {reply}")
        if status == 409:
            return Exists(f"{where}: {reply}")
        if status == 401:
            return StoreRefused(f"{where}: the Hub does not accept this token; run `hf auth login`, or set HF_TOKEN")
        if status == 403:
            return StoreRefused(f"{where}: forbidden: {reply}{self._role()}")
        if status == 429:
            wait_s = self._heed(headers) or 60.0
            return StoreUnavailable(f"{where}: the Hub's rate limit is used up", retry_after_s=wait_s)
        if status is not None and 400 <= status < 500 and status != 408:
            return StoreRefused(f"{where}: {status}: {reply}")
        self._heed(headers)
        return StoreUnavailable(f"{where}: {f'the Hub answered {status}' if status else reply}")

    def _role(self) -> str:
        """What the token may do, for the message of a refusal."""
        try:
            role = self.api.whoami()["auth"]["accessToken"]["role"]
        except Exception:  # noqa: BLE001  # it only adds to the message of an error that is raised anyway
            return ""
        return "" if role == "write" else f" (this token's role is {role!r}; a run needs one that may write)"


def _is_client_error(error: Exception) -> bool:
    """Is it an error of the client itself, not of the connection to the Hub?"""
    from huggingface_hub import errors

    return isinstance(error, errors.LocalTokenNotFoundError | errors.EntryNotFoundError)


def _summarize(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _date_s(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None

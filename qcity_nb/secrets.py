"""What looks like a credential: it is never written into a snapshot, nor sent with the project's files."""

from __future__ import annotations

import functools
import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = [
    "SecretSearch",
    "current_search",
    "current_values",
    "find_token",
    "find_value",
    "looks_secret",
    "note_asked",
    "redact",
    "secret_values",
]

_SECRET_NAME = re.compile(
    r"TOKEN(?!IZERS?(?:_|$))|KEYS?(?:_|$)|SECRET|PASSW|PASSPHRASE|(?:^|_)(?:PASS|PWD|AUTH|"
    r"PAT|SAS|DSN|COOKIE|BEARER|JWT|CERT|SIGNATURE)(?:_|$)|CREDENTIAL|PRIVATE|WEBHOOK|NETRC",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{6} | api_org_[A-Za-z0-9]{6} | sk-[A-Za-z0-9_-]{6} | sk_(?:live|test)_ | rk_(?:live|test)_
      | gh[opsur]_[A-Za-z0-9]{6} | github_pat_ | glpat- | gldt- | xox[abeoprs]- | xapp-
      | AKIA[A-Z0-9]{8} | ASIA[A-Z0-9]{8} | AIza[A-Za-z0-9_-]{8} | ya29\.
      | eyJ[A-Za-z0-9_-]{8} | pypi-[A-Za-z0-9] | npm_[A-Za-z0-9]{6}
      | dop_v1_ | dckr_pat_ | nvapi- | gsk_[A-Za-z0-9]{6} | r8_[A-Za-z0-9]{6} | wandb_v1_
      | SG\.[A-Za-z0-9_-]{8} | shpat_ | lin_api_
      | (?:bearer|basic)\s+[A-Za-z0-9+/=._-]{6}
    )
    | -----BEGIN\s
    | [a-z][a-z0-9+.-]*://[^/\s@]*@                      # any user in an address: a token may stand in its place
    | [?&;\s](?:sig|signature|x-amz-[a-z-]+)=
    | (?:token|passw(?:or)?d|pwd|secret|api_?key|access_?key|accountkey|credential)["']?\s*[=:]
    | \b[0-9a-f]{32,}\b                                  # hexadecimal keys
    | (?-i:(?<![\w/.-])(?=[\w+/=-]*[0-9])(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[A-Za-z0-9+/_=-]{24,}(?![\w/.-]))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST = 4096
"""No setting is known to be longer; the content of a key file may be."""


def looks_secret(name: str, value: str) -> bool:
    """Does a variable's name or value look like a credential? False alarms are preferred to leaks."""
    return bool(_SECRET_NAME.search(name) or _SECRET_VALUE.search(value)) or len(value) > _LONGEST


_BINARY = re.compile(r"(?:image/(?!svg)|audio/|video/|application/(?:pdf|octet-stream))")
"""Kinds of content that are no text."""
_PLACE_NAME = re.compile(r"_(?:PATH|FILE|DIR|SOCK|URL|URI|ENDPOINT|NAME|TYPE)$", re.IGNORECASE)
"""Where a secret is, and not the secret. (The address of a webhook is one.)"""
_TOKENS = {
    "a Hugging Face token": r"(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "a GitHub token": r"gh[opsur]_[A-Za-z0-9]{36,} | github_pat_[A-Za-z0-9_]{22,}",
    "a GitLab token": r"gl(?:pat|dt|rt)-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"(?<![/+])(?:AKIA|ASIA)[A-Z0-9]{16}",
    "a Google API key": r"(?<![/+])AIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    "an API key": r"""sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[A-Za-z0-9_-]{32,} | (?:sk|rk)_live_[A-Za-z0-9]{20,}
      | nvapi-[A-Za-z0-9_-]{40,}""",
    "a package registry's token": r"pypi-[A-Za-z0-9_-]{50,} | npm_[A-Za-z0-9]{36} | dckr_pat_[A-Za-z0-9_-]{20,}",
    "a JSON web token": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
_TOKEN = re.compile(
    "|".join(rf"(?P<t{n}>(?<![A-Za-z0-9_-])(?:{token})(?![A-Za-z0-9]))" for n, token in enumerate(_TOKENS.values()))
    + r"|(?P<key>-----BEGIN\ (?:[A-Z]+\ )*PRIVATE\ KEY-----\s*(?:\\n)?[A-Za-z0-9+/])",
    re.VERBOSE,
)
_KINDS = {f"t{n}": kind for n, kind in enumerate(_TOKENS)} | {"key": "a private key"}
_VARIED = 6
"""A token has at least so many different characters; ``hf_xxxx…`` stands in an example."""
SHORTEST = 12
"""A shorter value in the environment may be a word."""


def find_token(text: str) -> str:
    """What kind of credential is in a text, by its form alone; empty: none. Examples such as ``hf_xxxx…`` are none."""
    for match in _TOKEN.finditer(text):
        is_example = len(set(match[0][-16:])) < _VARIED or "EXAMPLE" in match[0].upper()
        if match.lastgroup == "key" or not is_example:
            return _KINDS[match.lastgroup or "key"]
    return ""


def secret_values(environ: Mapping[str, str]) -> dict[str, str]:
    """The values that must be written nowhere, with the names of their variables.

    Those of variables with a secret-looking name, from 12 characters on, which are no places of a file or service.
    """
    return {
        value: name
        for name, value in environ.items()
        if _is_secret_name(name) and len(value) >= SHORTEST and not _is_path(value)
    }


def _is_path(value: str) -> bool:
    """Is it the path of something in a folder that exists here?"""
    _, first, rest = [*value.split("/", 2), "", ""][:3]
    return value.startswith("/") and bool(first and rest) and Path(f"/{first}").is_dir()


@functools.lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _PLACE_NAME.search(name)


def find_value(text: str, values: Mapping[str, str]) -> str:
    """The name of the first of these values that is in a text; empty: none is."""
    return next((name for value, name in values.items() if value in text), "")


def redact(value: Any, values: Mapping[str, str]) -> Any:
    """JSON values with ``[secret NAME]`` in place of a secret in each text; images and the like stay as they are.

    Args:
        values: names by value.
    """
    if isinstance(value, str):
        for text, name in values.items():
            if text in value:
                value = value.replace(text, f"[secret {name}]")
        return value
    if isinstance(value, list):
        return [redact(item, values) for item in value]
    if isinstance(value, Mapping):
        return {key: item if _BINARY.match(str(key)) else redact(item, values) for key, item in value.items()}
    return value


_asked: dict[str, str] = {}
"""What ``city.secret`` has returned in this process, with the names."""


def note_asked(name: str, value: str) -> None:
    """Note a secret that was handed out: from now on it is written nowhere."""
    if len(value) >= SHORTEST:
        _asked[value] = name


def current_values(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The secrets of this process, with their names: those of its environment, and those that it has asked for."""
    return secret_values(environ) | _asked


class SecretSearch:
    """Searches what is to be written for secrets.

    Args:
        values: names by value. They are found as they are, as in JSON, percent-encoded and, in a header for basic
            authentication, in base64.
    Does not: find one that is compressed, encrypted, split or otherwise encoded.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._plain: dict[bytes, str] = {}
        self._encoded: dict[bytes, str] = {}
        for value, name in values.items():
            text = value.encode("utf-8", "surrogatepass")
            self._plain[text] = name
            for escaped in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
                self._plain.setdefault(escaped[1:-1].encode("utf-8", "surrogatepass"), name)
            self._plain.setdefault(quote(value, safe="", errors="surrogatepass").encode(), name)
            for before in range(3):  # where it begins in a group of three bytes decides how it is encoded
                data = b"\0" * before + text
                # Only the characters that no other byte has a part in.
                self._encoded[b64encode(data)[(before * 8 + 5) // 6 : len(data) * 8 // 6]] = name

    def name_in(self, data: bytes) -> str:
        """The name of a secret in it; empty: there is none."""
        for value, name in self._plain.items():
            if value in data:
                return name
        if b"asic " in data:
            return next((name for value, name in self._encoded.items() if value in data), "")
        return ""


def current_search() -> SecretSearch:
    """A search for the secrets that this process has now."""
    return _search(frozenset(current_values().items()))


@functools.lru_cache(maxsize=4)
def _search(values: frozenset[tuple[str, str]]) -> SecretSearch:
    return SecretSearch(dict(values))

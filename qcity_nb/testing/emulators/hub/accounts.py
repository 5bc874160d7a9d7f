"""Users, what their tokens may do, and ``whoami``."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from qcity_nb.errors import UsageError
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, Role, User, route

__all__ = ["Users", "allowed", "object_id", "role_in", "whoami"]

_SCOPES = {"read": "repo.content.read", "write": "repo.write"}


class Users:
    """Users by token.

    Args:
        tokens: the tokens that are known.
        other: whom every other non-empty token speaks for; None: nobody, 401.
    """

    def __init__(self, tokens: Mapping[str, User] | None = None, *, other: User | None = None) -> None:
        self.tokens = dict(tokens or {})
        self.other = other

    @classmethod
    def anybody(cls) -> Users:
        """Any token is the one user ``user``, who may write."""
        return cls(other=User("user"))

    @classmethod
    def with_token(cls, token: str) -> Users:
        """That token alone is known: it is the one user ``user``, who may write."""
        return cls({token: User("user")})

    @classmethod
    def load(cls, path: Path) -> Users:
        """From a TOML or JSON file: a table by token, of ``name``, ``role``, ``orgs`` and ``scopes``.

        Raises:
            UsageError: the file is not there or not of that form.
        """
        try:
            text = path.read_text(encoding="utf-8")
            table_of_users = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise UsageError(f"the users' file {path} cannot be read: {error}") from error
        if not isinstance(table_of_users, dict) or not table_of_users:
            raise UsageError(f'{path}: a table for each token is needed, as [hf_alice] with name = "alice"')
        return cls({token: _user(path, token, table) for token, table in table_of_users.items()})

    def find(self, token: str) -> User | None:
        """The user whom ``token`` speaks for."""
        return self.tokens.get(token) or (self.other if token else None)

    def names(self) -> set[str]:
        """All users."""
        known = {user.name for user in self.tokens.values()}
        return known | ({self.other.name} if self.other else set())


def _user(path: Path, token: str, table: Any) -> User:
    where = f"{path}: [{token[:6]}…]"  # never the whole token: it may be a real one
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise UsageError(f'{where}: name = "…" is missing')
    unknown = set(table) - {"name", "role", "orgs", "scopes"}
    if unknown:
        raise UsageError(f"{where}: unknown: {', '.join(sorted(unknown))}; there are name, role, orgs and scopes")
    role = table.get("role", "write")
    if role not in get_args(Role):
        raise UsageError(f"{where}: role is one of {', '.join(get_args(Role))}, not {role!r}")
    for key in ("orgs", "scopes"):
        scopes = table.get(key, [])
        if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
            raise UsageError(f"{where}: {key} is a list of strings")
    return User(table["name"], role, tuple(table.get("orgs", ())), tuple(table.get("scopes", ())))


def role_in(user: User, owner: str) -> str | None:
    """What the user may do under a name, whatever its token: ``write``, ``read``, or None where it does not belong."""
    if owner == user.name:
        return "write"
    for org in user.orgs:
        name, _, role = org.partition(":")
        if name == owner:
            return "read" if role == "read" else "write"
    return None


def allowed(user: User, need: str, *, owner: str, entity: str = "", scope: str = "") -> bool:
    """Whether the user's token may ``read`` or ``write`` under ``owner``; see ``Hub.require``."""
    role = role_in(user, owner)
    if role is None or (need == "write" and role == "read"):
        return False
    if user.role == "fineGrained":
        permission = scope or _SCOPES[need]
        return any(_grants(each, permission, user, owner, entity) for each in user.scopes)
    return need == "read" or user.role == "write"


def _grants(grant: str, needed: str, user: User, owner: str, entity: str) -> bool:
    place, _, permission = grant.rpartition(":")
    if permission != needed and not (permission == "repo.write" and needed == "repo.content.read"):
        return False
    return place in (owner, entity) if place else owner == user.name


def object_id(*parts: str) -> str:
    """24 hexadecimal digits, as the Hub's own records have for an ``_id``; the same for the same parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _scoped(user: User) -> dict[str, Any]:
    places: dict[str, list[str]] = {}
    for scope in user.scopes:
        place, _, permission = scope.rpartition(":")
        places.setdefault(place or user.name, []).append(permission)
    scoped = [
        {
            "entity": {
                "_id": object_id("entity", place),
                "type": "model" if "/" in place else "user" if place == user.name else "org",
                "name": place,
            },
            "permissions": permissions,
        }
        for place, permissions in places.items()
    ]
    return {"canReadGatedRepos": False, "global": [], "scoped": scoped}


@route("GET", "/api/whoami-v2")
def whoami(hub: object, request: Request) -> Response:
    """Who the token speaks for, and what it may do."""
    user = request.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    token: dict[str, Any] = {"displayName": "emulated", "role": user.role, "createdAt": "2024-01-01T00:00:00.000Z"}
    if user.role == "fineGrained":
        token["fineGrained"] = _scoped(user)
    orgs = []
    for org in user.orgs:
        name, _, role = org.partition(":")
        orgs.append(
            {
                "type": "org",
                "id": object_id("org", name),
                "name": name,
                "fullname": name,
                "isEnterprise": False,
                "canPay": False,
                "avatarUrl": "",
                "roleInOrg": role or "write",
            }
        )
    return Response.json(
        {
            "type": "user",
            "id": object_id("user", user.name),
            "name": user.name,
            "fullname": user.name,
            "isPro": False,
            "canPay": True,
            "avatarUrl": "",
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )

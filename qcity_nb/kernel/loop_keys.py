"""The key by which a loop is recognized in another kernel."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from qcity_nb.errors import UsageError

__all__ = ["key_of"]

_QUOTED = str.maketrans({"%": "%25", "/": "%2F", "#": "%23", ":": "%3A"})
"""Escapes the separators of a key's parts in a name, which is one part."""


def key_of(
    name: str | None,
    *,
    calls: MutableMapping[str, int],
    outer: str | None,
    cell: tuple[str, str],
    owners: MutableMapping[str, str],
    finished: Mapping[str, int],
) -> str:
    """The key of a loop that begins here: its outer loop's key, then its name or the ordinal of the call.

    Args:
        calls: how many loops of each name have begun in this execution of the cell, or in this iteration; updated here.
        outer: the key of the loop around this one.
        cell: the running cell's id and the hash of its source.
        owners: which cell of this kernel a name belongs to; a new name is added.
        finished: the loops that were finished in this kernel.
    Raises:
        UsageError: another cell has a loop of that name.
    """
    ordinal = calls.get(name or "", 0)
    calls[name or ""] = ordinal + 1
    # A name that occurs twice in one execution of a cell (k-fold) is another loop each time.
    own = f":{ordinal}" if not name else name.translate(_QUOTED) + (f"#{ordinal}" if ordinal else "")
    if outer is not None:
        return f"{outer}/{own}"
    cell_id, source = cell
    if not name:
        return cell_id + own
    owner = owners.setdefault(own, cell_id)
    if owner != cell_id and source not in (cell_id, owner) and own in finished:
        raise UsageError(
            f"city.loop(name={name!r}): another cell has a loop of that name, and after a restart one would be"
            " taken for the other; give this one another name"
        )
    return own

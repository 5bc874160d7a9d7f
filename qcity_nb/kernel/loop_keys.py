"""Which loop is this? The key by which a loop is found again in another kernel."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from qcity_nb.errors import UsageError

__all__ = ["key_of"]

_QUOTED = str.maketrans({"%": "%25", "/": "%2F", "#": "%23", ":": "%3A"})
"""A name is one part of a key; these separate the parts."""


def key_of(
    name: str | None,
    *,
    calls: MutableMapping[str, int],
    outer: str | None,
    cell: tuple[str, str],
    owners: MutableMapping[str, str],
    settled: Mapping[str, int],
) -> str:
    """The key of a loop that begins here: its name, or the ordinal of the call; after its outer loop's key.

    Args:
        calls: how many loops of a name have begun in this execution of the cell, or in this iteration; counted on.
        outer: the key of the loop that this one begins in.
        cell: the running cell's id and the hash of its source.
        owners: which cell of this kernel a name belongs to; a new name is added.
        settled: the loops that a cell of this kernel has finished.
    Raises:
        UsageError: another cell has a loop of that name.
    """
    ordinal = calls.get(name or "", 0)
    calls[name or ""] = ordinal + 1
    # A name that comes back in one execution of a cell (k-fold) is another loop each time.
    own = f":{ordinal}" if not name else name.translate(_QUOTED) + (f"#{ordinal}" if ordinal else "")
    if outer is not None:
        return f"{outer}/{own}"
    cell_id, source = cell
    if not name:
        return cell_id + own
    owner = owners.setdefault(own, cell_id)
    if owner != cell_id and source not in (cell_id, owner) and own in settled:
        raise UsageError(
            f"city.loop(name={name!r}): another cell has a loop of that name, and after a restart each would be"
            " taken for the other; give this one its own name"
        )
    return own

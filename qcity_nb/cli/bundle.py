"""What travels between a project here and an attempt elsewhere: the project's files there, the notebook back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qcity_nb import hosts
from qcity_nb.errors import StoreError
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.settings import Settings

__all__ = ["bring_home", "pack_for_hosts"]


def _are_elsewhere(names: Iterable[str]) -> bool:
    return any(hosts.kind(name) != "local" for name in names)


def pack_for_hosts(given: Settings, names: Iterable[str], say: Callable[[str], None]) -> tuple[str, bytes]:
    """Name and content of the project's files for these hosts; empty where all of them have the files.

    Args:
        say: told, in a line for people, what goes along and what does not.
    """
    if not _are_elsewhere(names):
        return "", b""
    from qcity_nb.hosts import bundle

    found = bundle.pack(given.project.root, given.bundle)
    for line in found.left_out:
        say(f"stays here: {line}")
    hint = "" if len(found.files) > 1 else "; `bundle = [...]` in [tool.qcity] names more than git tracks here"
    say(f"{len(found.files)} files of project {given.project.name} go along ({len(found.data):,} bytes){hint}")
    return found.name, found.data


def bring_home(store: Store, given: Settings, head: Head, say: Callable[[str], None]) -> None:
    """Write the executed notebook of a run that was elsewhere to where the run says that it goes.

    Args:
        say: told, in a line for people, why that could not be: the run has ended well all the same.
    """
    if not (head.output and head.executed and head.project == given.project.name):
        return
    if head.state == "running" or not _are_elsewhere(head.desired.hosts):
        return
    target = given.project.root / head.output
    draft = target.with_name(f".{target.name}.part")
    try:
        data = store.get(head.run, head.executed)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(target)
    except StoreError as error:
        say(f"{head.run}: the executed notebook stays in the store: {error}")
    except OSError as error:
        say(f"{head.run}: the executed notebook cannot be written to {target}: {error.strerror or error}")

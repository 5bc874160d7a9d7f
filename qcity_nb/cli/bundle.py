"""What is sent between a project here and an attempt on another machine: the project's files, the executed notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qcity_nb import hosts
from qcity_nb.errors import StoreError
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.settings import Settings

__all__ = ["bring_home", "pack_for_hosts"]


def _has_remote(names: Iterable[str]) -> bool:
    return any(hosts.kind(name) != "local" for name in names)


def pack_for_hosts(settings: Settings, names: Iterable[str], say: Callable[[str], None]) -> tuple[str, bytes]:
    """Name and content of the project's files for these hosts; both empty if all of them have the files already.

    Args:
        say: is called with a line for people on what is sent and what is not.
    """
    if not _has_remote(names):
        return "", b""
    from qcity_nb.hosts import bundle

    packed = bundle.pack(settings.project.root, settings.bundle)
    for line in packed.left_out:
        say(f"not sent: {line}")
    hint = "" if len(packed.files) > 1 else "; to send more than git tracks, set `bundle = [...]` in [tool.qcity]"
    say(f"{len(packed.files)} files of project {settings.project.name} are sent ({len(packed.data):,} bytes){hint}")
    return packed.name, packed.data


def bring_home(store: Store, settings: Settings, head: Head, say: Callable[[str], None]) -> None:
    """Copy the executed notebook of a run on other hosts to the path that the run names.

    Args:
        say: is called with a line for people if that fails. The run has ended well all the same.
    """
    if not (head.output and head.executed and head.project == settings.project.name):
        return
    if head.state == "running" or not _has_remote(head.desired.hosts):
        return
    target = settings.project.root / head.output
    draft = target.with_name(f".{target.name}.part")
    try:
        data = store.get(head.run, head.executed)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        draft.replace(target)
    except StoreError as error:
        say(f"{head.run}: the executed notebook is only in the store: {error}")
    except OSError as error:
        say(f"{head.run}: the executed notebook cannot be written to {target}: {error.strerror or error}")

"""Does this Hub behave as the store takes for granted? Asked of the real one, on a branch of a scratch repository.

The emulator and the store are by the same hands: their agreement proves nothing about the service. Each probe here is
one thing that the store takes for granted; `qcity doctor --probe hf://user/scratch` runs them and reports each
difference. They make some 30 commits, under the 128 an hour that users have reported as a limit. The emulator's tests
run the same probes: what it fails, it does not emulate.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from qcity_nb.errors import Conflict, QcityError
from qcity_nb.stores.hub.address import branch_of, parse
from qcity_nb.stores.hub.client import NoEntry, NoRepository, NoRevision, Stale
from qcity_nb.stores.hub.repository import HubRepository
from qcity_nb.stores.hub.store import HubStore

__all__ = ["PROBES", "Finding", "Probe", "probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one probe."""

    name: str
    is_as_expected: bool
    detail: str = ""


class Probe:
    """What the probes share: a repository, a branch, and what is on it.

    Args:
        address: ``hf://user/scratch``; made, private, if it is not there. The branch is deleted at the end.
    """

    def __init__(self, address: str) -> None:
        where = parse(address)
        self.repository = HubRepository(where)
        self.store = HubStore(where)
        self.run = f"probe-{uuid.uuid4().hex[:8]}"
        self.branch = branch_of(self.run)
        self.tip = ""

    def add(self, path: str, content: bytes, *, parent: str = "") -> str:
        """Commit one file; the new tip."""
        self.tip = self.repository.commit(
            self.branch, [CommitOperationAdd(path, content)], parent=parent or self.tip, title=f"probe {path}"
        )
        return self.tip


def _raises(kind: type[QcityError], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    except QcityError as error:
        raise AssertionError(f"{type(error).__name__} instead of {kind.__name__}: {error}") from None
    raise AssertionError(f"no {kind.__name__}")


def _a_branch_begins_at_main(on: Probe) -> None:
    """A branch can be made from main, again without an error, and its tip is a commit."""
    on.repository.make()
    on.repository.make_branch(on.branch)
    on.repository.make_branch(on.branch)
    on.tip = on.repository.tip(on.branch)
    assert len(on.tip) == 40, f"a tip of {len(on.tip)} characters"


def _names_of_branches(on: Probe) -> None:
    """A ``+`` and a ``=`` may stand in a branch's name, and it is listed under it."""
    odd = branch_of(f"{on.run}/odd.")
    on.repository.make_branch(odd)
    try:
        assert odd in on.repository.refs()[0], "not listed"
    finally:
        on.repository.drop_branch(odd)


def _a_commit_lands_and_is_read(on: Probe) -> None:
    """A commit on the tip lands, and is read at once, with the commit and the Hub's clock in the reply."""
    tip = on.add("a.txt", b"one")
    reply = on.repository.read("a.txt", on.branch)
    assert reply.content == b"one", f"read {reply.content!r}"
    assert reply.commit == tip, f"X-Repo-Commit is {reply.commit!r}, the tip {tip!r}"
    assert reply.now_s is not None, "no Date"
    assert on.repository.tip(on.branch) == tip


def _reads_follow_writes(on: Probe) -> None:
    """Ten commits in a row, each read at once: is any read older than the write before it?"""
    stale = 0
    for number in range(10):
        on.add("count.txt", b"%d" % number)
        stale += on.repository.read("count.txt", on.branch).content != b"%d" % number
    assert not stale, f"{stale} of 10 reads were older than the write before"


def _a_stale_parent_is_refused(on: Probe) -> None:
    """A commit on an older parent is answered with 412, and changes nothing."""
    old, tip = on.tip, on.add("a.txt", b"two")
    operation = CommitOperationAdd("a.txt", b"stale")
    _raises(Stale, lambda: on.repository.commit(on.branch, [operation], parent=old, title="stale"))
    assert on.repository.tip(on.branch) == tip
    assert on.repository.read("a.txt", on.branch).content == b"two"


def _one_of_two_wins(on: Probe) -> None:
    """Four commits on one parent at the same time: one lands."""
    landed: list[str] = []
    parent = on.tip

    def commit(name: str) -> None:
        try:
            operation = CommitOperationAdd("race.txt", name.encode())
            landed.append(on.repository.commit(on.branch, [operation], parent=parent, title=name))
        except Conflict:
            return

    threads = [threading.Thread(target=commit, args=(f"racer {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    on.tip = on.repository.tip(on.branch)
    assert landed == [on.tip], f"{len(landed)} landed"


def _what_is_not_there(on: Probe) -> None:
    """A missing file, branch and repository are told apart."""
    _raises(NoEntry, lambda: on.repository.read("not-there", on.branch))
    _raises(NoRevision, lambda: on.repository.read("a.txt", f"{on.branch}-not-there"))
    here = on.repository.address
    other = HubRepository(replace(here, repo=f"{here.repo}-{uuid.uuid4().hex[:8]}"))
    _raises(NoRepository, lambda: other.read("a.txt", "main"))


def _the_date_of_a_file(on: Probe) -> None:
    """`paths-info` tells the last commit of a file and its time, which is the Hub's."""
    tip = on.add("dated.txt", uuid.uuid4().hex.encode())
    on.add("other.txt", uuid.uuid4().hex.encode())
    [info] = on.repository.infos(["dated.txt"], on.branch, dated=True)
    now_s = on.repository.read("a.txt", on.branch).now_s or time.time()
    assert info.last_commit is not None, "no last commit"
    assert info.last_commit.oid == tip, "the last commit is another one's"
    assert abs(now_s - info.last_commit.date.timestamp()) < 120, "its date is not the Hub's time"


def _a_file_goes_with_another(on: Probe) -> None:
    """One commit adds and deletes; a deletion of what is not there is refused as a missing file."""
    both = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("a.txt", is_folder=False)]
    on.tip = on.repository.commit(on.branch, both, parent=on.tip, title="both")
    names = {one.path for one in on.repository.tree(on.branch)}
    assert "new.txt" in names
    assert "a.txt" not in names
    gone = [CommitOperationDelete("a.txt", is_folder=False)]
    _raises(NoEntry, lambda: on.repository.commit(on.branch, gone, parent=on.tip, title="gone"))


def _large_content_by_its_folder(on: Probe) -> None:
    """A rule in .gitattributes of the branch makes small files large content (LFS or Xet)."""
    rules = on.repository.read(".gitattributes", on.branch).content
    on.add(".gitattributes", rules + b"files/packs/** filter=lfs diff=lfs merge=lfs -text\n")
    content = os.urandom(5000)
    on.add("files/packs/t1-1-x.pack", content)
    [info] = on.repository.infos(["files/packs/t1-1-x.pack"], on.branch)
    assert info.lfs is not None, "it was stored as a regular file"
    assert info.lfs.sha256 == hashlib.sha256(content).hexdigest()
    assert on.repository.read("files/packs/t1-1-x.pack", on.branch).content == content


def _large_content_is_sent_ahead(on: Probe) -> None:
    """What was uploaded before its commit is not sent again with it, and is fetched whole."""
    content = os.urandom(12_000_000)
    with tempfile.TemporaryDirectory(prefix="qcity-probe-") as folder:
        source = Path(folder) / "source"
        source.write_bytes(content)
        addition = CommitOperationAdd("files/packs/t1-2-x.pack", str(source))
        on.repository.upload(on.branch, [addition])
        on.tip = on.repository.commit(on.branch, [addition], parent=on.tip, title="sent ahead")
        target = Path(folder) / "back"
        found = on.repository.download("files/packs/t1-2-x.pack", on.branch, target, size_bytes=len(content))
        assert found.read_bytes() == content


def _what_is_stored_is_listed(on: Probe) -> None:
    """The list of stored content has the file's name, its sha256, its size and when it came."""
    stored = {one.filename: one for one in on.repository.stored()}
    one = stored.get("files/packs/t1-2-x.pack")
    assert one is not None, f"not among {len(stored)} entries"
    assert len(one.file_oid) == 64, f"its id is {one.file_oid!r}"
    assert one.size == 12_000_000, f"its size is {one.size}"
    assert abs(time.time() - one.pushed_at.timestamp()) < 600, "pushed at another time"


def _a_squashed_branch_goes_on(on: Probe) -> None:
    """Squashing leaves the tree alone and moves the tip; a commit on the old tip is refused, one on the new lands."""
    old = on.tip
    before = {one.path for one in on.repository.tree(on.branch)}
    on.repository.squash(on.branch, title="squashed")
    on.tip = on.repository.tip(on.branch)
    assert on.tip != old, "the tip is the same"
    assert {one.path for one in on.repository.tree(on.branch)} == before
    operation = CommitOperationAdd("late.txt", b"late")
    try:
        on.repository.commit(on.branch, [operation], parent=old, title="late")
    except (Stale, NoRevision):
        pass
    else:
        raise AssertionError("a commit on the tip from before the squash landed")
    on.add("later.txt", b"later")


def _what_nothing_names_is_told_apart(on: Probe) -> None:
    """After a deletion and a squash, stored content that no branch names is found, and can be deleted for good."""
    gone = [CommitOperationDelete("files/packs/t1-2-x.pack", is_folder=False)]
    on.tip = on.repository.commit(on.branch, gone, parent=on.tip, title="gone")
    on.repository.squash(on.branch, title="squashed again")
    unnamed = [one for one in on.repository.unnamed("files/packs/") if one.filename.endswith("t1-2-x.pack")]
    assert unnamed, "it is not listed any more"
    on.repository.erase(unnamed)


def _the_store_itself(on: Probe) -> None:
    """A run is made once, published on, read, dropped from, and its versions are its own."""
    run = f"{on.run}-run"
    try:
        version = on.store.publish(run, b"1", expect=None, files={"a": b"a", "packs/p": os.urandom(3000)})
        _raises(Conflict, lambda: on.store.publish(run, b"x", expect=None))
        newer = on.store.publish(run, b"2", expect=version, files={"b": b"b"}, drop=["a"])
        _raises(Conflict, lambda: on.store.publish(run, b"x", expect=version))
        fresh = HubStore(on.repository.address)
        found = fresh.read(run)
        assert found is not None
        assert (found.data, found.version) == (b"2", newer)
        assert found.now_s - found.written_s < 120
        assert fresh.names(run) == ["b", "packs/p"]
        assert run in fresh.runs()
    finally:
        on.store.forget(run)
    assert on.store.read(run) is None


PROBES: tuple[Callable[[Probe], None], ...] = (
    _a_branch_begins_at_main,
    _names_of_branches,
    _a_commit_lands_and_is_read,
    _reads_follow_writes,
    _a_stale_parent_is_refused,
    _one_of_two_wins,
    _what_is_not_there,
    _the_date_of_a_file,
    _a_file_goes_with_another,
    _large_content_by_its_folder,
    _large_content_is_sent_ahead,
    _what_is_stored_is_listed,
    _a_squashed_branch_goes_on,
    _what_nothing_names_is_told_apart,
    _the_store_itself,
)


def probe(address: str) -> Iterator[Finding]:
    """Run all probes, in order; each may stand on those before it.

    Raises:
        QcityError: the first one could not even begin: no token, no right to write there.
    """
    on = Probe(address)
    try:
        for number, check in enumerate(PROBES):
            name = check.__name__.strip("_").replace("_", " ")
            try:
                check(on)
            except QcityError as error:
                if number == 0:
                    raise
                yield Finding(name=name, is_as_expected=False, detail=str(error))
            except AssertionError as error:
                yield Finding(name=name, is_as_expected=False, detail=str(error) or (check.__doc__ or ""))
            else:
                yield Finding(name=name, is_as_expected=True)
    finally:
        # It was never made, or the Hub is away: then the branch's name says what it was.
        with contextlib.suppress(QcityError):
            on.repository.drop_branch(on.branch)

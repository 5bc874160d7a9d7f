"""Does this Hub behave as the store assumes? Tested on the real one, on a branch of a scratch repository.

The emulator and the store have the same authors: their agreement proves nothing about the service. Each probe here
tests one assumption of the store; `qcity doctor --probe hf://user/scratch` runs them and reports each difference. They
make some 30 commits, under the 128 an hour that users have reported as a limit. The emulator's tests run the same
probes, so that it emulates what they test.
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
    """The result of one probe."""

    name: str
    is_as_expected: bool
    detail: str = ""


class Probe:
    """What the probes share: a repository, a branch, and its content.

    Args:
        address: ``hf://user/scratch``; made, as a private one, if it does not exist. The branch is deleted at the end.
    """

    def __init__(self, address: str) -> None:
        where = parse(address)
        self.repository = HubRepository(where)
        self.store = HubStore(where)
        self.run = f"probe-{uuid.uuid4().hex[:8]}"
        self.branch = branch_of(self.run)
        self.tip = ""

    def add(self, path: str, content: bytes, *, parent: str = "") -> str:
        """Commit one file; returns the new tip."""
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
    """A branch can be made from main; a second call is no error; its tip is a commit."""
    on.repository.make()
    on.repository.make_branch(on.branch)
    on.repository.make_branch(on.branch)
    on.tip = on.repository.tip(on.branch)
    assert len(on.tip) == 40, f"a tip of {len(on.tip)} characters"


def _names_of_branches(on: Probe) -> None:
    """A branch's name may contain ``+`` and ``=``, and the branch is listed under it."""
    odd = branch_of(f"{on.run}/odd.")
    on.repository.make_branch(odd)
    try:
        assert odd in on.repository.refs()[0], "not listed"
    finally:
        on.repository.drop_branch(odd)


def _a_commit_is_made_and_read(on: Probe) -> None:
    """A commit on the tip is made and can be read at once; the reply has the commit and the Hub's clock."""
    tip = on.add("a.txt", b"one")
    reply = on.repository.read("a.txt", on.branch)
    assert reply.content == b"one", f"read {reply.content!r}"
    assert reply.commit == tip, f"X-Repo-Commit is {reply.commit!r}, the tip {tip!r}"
    assert reply.now_s is not None, "no Date"
    assert on.repository.tip(on.branch) == tip


def _reads_follow_writes(on: Probe) -> None:
    """Ten commits in a row, each read at once: no read is older than the write before it."""
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
    """Of four commits on one parent at the same time, one is made."""
    commits: list[str] = []
    parent = on.tip

    def commit(name: str) -> None:
        try:
            operation = CommitOperationAdd("race.txt", name.encode())
            commits.append(on.repository.commit(on.branch, [operation], parent=parent, title=name))
        except Conflict:
            return

    threads = [threading.Thread(target=commit, args=(f"racer {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    on.tip = on.repository.tip(on.branch)
    assert commits == [on.tip], f"{len(commits)} were made"


def _missing_things_differ(on: Probe) -> None:
    """A missing file, a missing branch and a missing repository are different errors."""
    _raises(NoEntry, lambda: on.repository.read("not-there", on.branch))
    _raises(NoRevision, lambda: on.repository.read("a.txt", f"{on.branch}-not-there"))
    here = on.repository.address
    other = HubRepository(replace(here, repo=f"{here.repo}-{uuid.uuid4().hex[:8]}"))
    _raises(NoRepository, lambda: other.read("a.txt", "main"))


def _the_date_of_a_file(on: Probe) -> None:
    """`paths-info` has the last commit of a file and its time, by the Hub's clock."""
    tip = on.add("dated.txt", uuid.uuid4().hex.encode())
    on.add("other.txt", uuid.uuid4().hex.encode())
    [info] = on.repository.infos(["dated.txt"], on.branch, dated=True)
    now_s = on.repository.read("a.txt", on.branch).now_s or time.time()
    assert info.last_commit is not None, "no last commit"
    assert info.last_commit.oid == tip, "the last commit is another one's"
    assert abs(now_s - info.last_commit.date.timestamp()) < 120, "its date is not the Hub's time"


def _a_file_goes_with_another(on: Probe) -> None:
    """One commit adds and deletes; deleting a missing file is refused as such."""
    both = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("a.txt", is_folder=False)]
    on.tip = on.repository.commit(on.branch, both, parent=on.tip, title="both")
    names = {entry.path for entry in on.repository.tree(on.branch)}
    assert "new.txt" in names
    assert "a.txt" not in names
    gone = [CommitOperationDelete("a.txt", is_folder=False)]
    _raises(NoEntry, lambda: on.repository.commit(on.branch, gone, parent=on.tip, title="gone"))


def _large_content_by_its_folder(on: Probe) -> None:
    """A rule in the branch's .gitattributes stores small files as large content (LFS or Xet)."""
    rules = on.repository.read(".gitattributes", on.branch).content
    on.add(".gitattributes", rules + b"files/packs/** filter=lfs diff=lfs merge=lfs -text\n")
    content = os.urandom(5000)
    on.add("files/packs/t1-1-x.pack", content)
    [info] = on.repository.infos(["files/packs/t1-1-x.pack"], on.branch)
    assert info.lfs is not None, "it was stored as a regular file"
    assert info.lfs.sha256 == hashlib.sha256(content).hexdigest()
    assert on.repository.read("files/packs/t1-1-x.pack", on.branch).content == content


def _large_content_is_sent_ahead(on: Probe) -> None:
    """Content that was uploaded before its commit is not sent again with it, and is fetched completely."""
    content = os.urandom(12_000_000)
    with tempfile.TemporaryDirectory(prefix="qcity-probe-") as folder:
        source = Path(folder) / "source"
        source.write_bytes(content)
        addition = CommitOperationAdd("files/packs/t1-2-x.pack", str(source))
        on.repository.upload(on.branch, [addition])
        on.tip = on.repository.commit(on.branch, [addition], parent=on.tip, title="sent ahead")
        target = Path(folder) / "back"
        file = on.repository.download("files/packs/t1-2-x.pack", on.branch, target, size_bytes=len(content))
        assert file.read_bytes() == content


def _what_is_stored_is_listed(on: Probe) -> None:
    """The list of stored content has the file's name, its sha256, its size and when it was pushed."""
    stored = {content.filename: content for content in on.repository.list_stored()}
    content = stored.get("files/packs/t1-2-x.pack")
    assert content is not None, f"not among {len(stored)} entries"
    assert len(content.file_oid) == 64, f"its id is {content.file_oid!r}"
    assert content.size == 12_000_000, f"its size is {content.size}"
    assert abs(time.time() - content.pushed_at.timestamp()) < 600, "pushed at another time"


def _a_squashed_branch_can_be_used(on: Probe) -> None:
    """Squashing keeps the tree and moves the tip; a commit on the old tip is refused, one on the new tip is made."""
    old = on.tip
    before = {entry.path for entry in on.repository.tree(on.branch)}
    on.repository.squash(on.branch, title="squashed")
    on.tip = on.repository.tip(on.branch)
    assert on.tip != old, "the tip is the same"
    assert {entry.path for entry in on.repository.tree(on.branch)} == before
    operation = CommitOperationAdd("late.txt", b"late")
    try:
        on.repository.commit(on.branch, [operation], parent=old, title="late")
    except (Stale, NoRevision):
        pass
    else:
        raise AssertionError("a commit on the tip from before the squash was made")
    on.add("later.txt", b"later")


def _unused_content_is_listed(on: Probe) -> None:
    """After a deletion and a squash, stored content that no branch names is listed, and can be deleted permanently."""
    gone = [CommitOperationDelete("files/packs/t1-2-x.pack", is_folder=False)]
    on.tip = on.repository.commit(on.branch, gone, parent=on.tip, title="gone")
    on.repository.squash(on.branch, title="squashed again")
    unnamed = [each for each in on.repository.list_unnamed("files/packs/") if each.filename.endswith("t1-2-x.pack")]
    assert unnamed, "it is not listed any more"
    on.repository.erase(unnamed)


def _the_store_itself(on: Probe) -> None:
    """A run is made once, published to and read; an object is dropped; its versions are unique."""
    run = f"{on.run}-run"
    try:
        version = on.store.publish(run, b"1", expect=None, files={"a": b"a", "packs/p": os.urandom(3000)})
        _raises(Conflict, lambda: on.store.publish(run, b"x", expect=None))
        newer = on.store.publish(run, b"2", expect=version, files={"b": b"b"}, drop=["a"])
        _raises(Conflict, lambda: on.store.publish(run, b"x", expect=version))
        fresh = HubStore(on.repository.address)
        stamped = fresh.read(run)
        assert stamped is not None
        assert (stamped.data, stamped.version) == (b"2", newer)
        assert stamped.now_s - stamped.written_s < 120
        assert fresh.names(run) == ["b", "packs/p"]
        assert run in fresh.runs()
    finally:
        on.store.forget(run)
    assert on.store.read(run) is None


PROBES: tuple[Callable[[Probe], None], ...] = (
    _a_branch_begins_at_main,
    _names_of_branches,
    _a_commit_is_made_and_read,
    _reads_follow_writes,
    _a_stale_parent_is_refused,
    _one_of_two_wins,
    _missing_things_differ,
    _the_date_of_a_file,
    _a_file_goes_with_another,
    _large_content_by_its_folder,
    _large_content_is_sent_ahead,
    _what_is_stored_is_listed,
    _a_squashed_branch_can_be_used,
    _unused_content_is_listed,
    _the_store_itself,
)


def probe(address: str) -> Iterator[Finding]:
    """Run all probes in order; each may need those before it.

    Raises:
        QcityError: the first one failed: no token, no permission to write there.
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
        # It was never made, or the Hub does not answer: then the branch's name says what it is.
        with contextlib.suppress(QcityError):
            on.repository.drop_branch(on.branch)

"""From the local tier to the store: one checkpoint, its rows and the journal in one publish."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcity_nb import codec, crashpoints, settings
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.digest import blake3_of
from qcity_nb.checkpoint.retention import Candidate, Keep, names_left, select
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.local_tier import Lazy, LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.checkpoint.storage.pack import ObjectRef, write_pack
from qcity_nb.clock import SystemClock, iso_now
from qcity_nb.errors import CheckpointError, Missing, StoreError
from qcity_nb.ports import Source
from qcity_nb.records import CheckpointRef, Head
from qcity_nb.run import journal
from qcity_nb.run.lease import Edit, Lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.sidecar.publish_rate import count_publish
from qcity_nb.sidecar.store_page import Card
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Publisher"]

_NEW_SHARE = 0.9
"""A local pack of which so much is new is published as it is."""
_LIVE_SHARE = 0.5
"""A published pack with less than this share of objects that are needed is not kept for them."""
_WORTH_BYTES = 1 << 20
"""Less than this is not worth sending anything again for."""
_DROPS = 40
"""So many objects are dropped with one head: a commit on the Hub should stay under 100 files."""
GONE_LOOKS = 5
"""So many looks in a row for a segment that the head names and the store does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PublishDraft:
    """A local checkpoint, made ready for the store."""

    manifest: Manifest
    data: bytes
    files: dict[str, Source]
    rows: bytes
    ref: CheckpointRef


class Publisher:
    """Publishes under one lease. One thread at a time uses it."""

    def __init__(
        self, lease: Lease, mailbox: Mailbox, tier: LocalTier, *, published: Manifest | None, keep: Keep | None = None
    ) -> None:
        self._lease = lease
        self._mailbox = mailbox
        self._tier = tier
        self._manifests: dict[str, Manifest] = {}
        """Manifests that the confirmed head names, as far as this attempt knows them."""
        self._newest = published
        self._keep = keep or Keep()
        self._key = settings.signing_key()
        self._links: dict[str, str] = {}
        self._offset = mailbox.offset()
        self._missing: dict[str, int] = {}
        """How often a chain's newest segment was not there."""
        self._condemned: set[str] = set()
        """Garbage as of the last publish."""
        self._is_untidy = True
        """Something was stored, or is condemned, since the store was last found tidy."""
        self._dropped_seq = 0
        """Rows up to this checkpoint are in the store since the publish before the last."""
        self._mine: set[str] = set()
        """Names that this attempt stored: what no confirmed head names among them is garbage of ours."""
        self._sizes: dict[str, int] = {}
        """Bytes of the packs that this attempt published."""
        self.newest_bytes = 0
        """What the newest checkpoint took to send; 0: none was sent by this attempt."""
        self._card = Card(lease.store, tier)
        self._executed = b""
        self._outgoing = tier.path / "outgoing"
        """Packs on their way to the store."""
        shutil.rmtree(self._outgoing, ignore_errors=True)
        self._outgoing.mkdir(parents=True)

    @property
    def live_bytes(self) -> int:
        """Of the newest published checkpoint's objects."""
        return self._newest.size_bytes if self._newest is not None else 0

    @property
    def _read(self) -> Callable[[str], bytes]:
        return lambda name: self._lease.store.get(self._lease.run, name)

    def _prepare(self, manifest: Manifest, head: Head) -> _PublishDraft:
        """Only what the newest published manifest does not have goes into a new pack."""
        base = self._newest
        term = self._lease.term
        known = dict(base.objects) if base is not None and head.checkpoint is not None else {}
        needed = manifest.objects.keys()
        refs: dict[str, ObjectRef] = {one: known[one] for one in needed if one in known}
        for one in self._sparse(refs):
            del refs[one]
        new = [one for one in needed if one not in refs]
        files: dict[str, Source] = {}
        if new:
            refs.update(self._pack(manifest, new, files))
        size = sum(path.stat().st_size for path in files.values() if isinstance(path, Path))
        stored = signing.sign(replace(manifest, objects=refs, term=term), self._lease.run, self._key)
        data = manifests.dumps(stored)
        name = f"checkpoints/t{term}-{manifest.seq}-{uuid.uuid4().hex[:8]}.json"
        files[name] = data
        ref = CheckpointRef(
            name=name,
            digest=manifests.digest(data),
            seq=manifest.seq,
            term=term,
            step=manifest.step,
            cells=max((count for count, cell in enumerate(manifest.cells, 1) if cell.namespace is not None), default=0),
            size_bytes=size + len(data),
            at=iso_now(),
            label=str(manifest.values.get("name", "")),
            values=self._values(manifest.seq),
        )
        top = head.checkpoint.seq if head.checkpoint else 0
        rows = b"".join(b'{"seq":%d}\n' % seq + self._tier.rows(seq) for seq in range(top + 1, manifest.seq + 1))
        return _PublishDraft(manifest=stored, data=data, files=files, rows=rows, ref=ref)

    def _values(self, seq: int) -> dict[str, float]:
        """Of the metric that decides which checkpoint is the best.

        Only from the rows that this checkpoint added: an older value is that of another state.
        """
        best = self._keep.best
        found = [row.value for row in decode_rows(self._tier.rows(seq)) if row.key == best] if best is not None else []
        return {best: found[-1]} if best is not None and found and math.isfinite(found[-1]) else {}

    def _keep_refs(self, new: CheckpointRef, head: Head) -> tuple[CheckpointRef, ...]:
        """The checkpoints that the next head names, newest first."""
        if new.label and not names_left(sum(1 for ref in head.checkpoints if ref.label), self._keep):
            message = f"checkpoint {new.seq} cannot be called {new.label!r}: the run has no room for another name"
            self._mailbox.note(journal.event("trouble", term=self._lease.term, message=message))
            new = replace(new, label="")
        refs = {ref.seq: ref for ref in (new, *head.checkpoints)}
        candidates = [
            Candidate(seq=ref.seq, step=ref.step, value=ref.values.get(self._keep.best or ""), name=ref.label)
            for ref in refs.values()
        ]
        return tuple(refs[one.seq] for one in select(candidates, self._keep))

    def _pack(self, manifest: Manifest, new: list[str], files: dict[str, Source]) -> dict[str, ObjectRef]:
        """Where the objects ``new`` will lie in the store; the packs for it go into ``files``.

        A local pack that is new goes as it is, by a hard link: local packs are never written again, so nothing
        has to be copied here. What is left goes into a pack of its own.
        """
        term, refs, rest = self._lease.term, {}, []
        local: dict[str, list[str]] = {}
        for one in new:
            local.setdefault(manifest.objects[one].pack, []).append(one)
        with self._tier.open_reader(manifest) as read:
            seals = {one: blake3_of(data) for one, data in read.walk(new)}
            for pack, names in local.items():
                path = self._name_objects(manifest)
                if not self._link(pack, path, sum(manifest.objects[one].size_bytes for one in names)):
                    rest += names
                    continue
                files[f"packs/{path.name}"] = path
                for one in names:
                    refs[one] = replace(manifest.objects[one], pack=f"packs/{path.name}", blake3=seals[one])
            if rest:
                path = self._name_objects(manifest)
                placed = write_pack(
                    path,
                    Lazy({one: manifest.objects[one] for one in rest}, read),
                    term=term,
                    size=sum(manifest.objects[one].size_bytes for one in rest),
                    blake3=lambda one, data: seals[one],
                )
                files[f"packs/{path.name}"] = path
                refs.update({one: replace(ref, pack=f"packs/{path.name}") for one, ref in placed.items()})
        crashpoints.hit("publish.pack")
        for name, source in files.items():
            if isinstance(source, Path):
                self._sizes[name] = source.stat().st_size
        return refs

    def _name_objects(self, manifest: Manifest) -> Path:
        return self._outgoing / f"t{self._lease.term}-{manifest.seq}-{uuid.uuid4().hex[:8]}.pack"

    def _link(self, pack: str, path: Path, size: int) -> bool:
        source = self._tier.pack_path(pack)
        try:
            if source.stat().st_size * _NEW_SHARE > size:
                return False  # too much of it is there already, or nobody needs it
            os.link(source, path)
        except OSError:
            return False  # dropped meanwhile, or a file system without links: it is read through the open file
        return True

    def _sparse(self, refs: Mapping[str, ObjectRef]) -> list[str]:
        """The objects in published packs that are mostly dead: sent once more, so that the store can drop the rest."""
        live: dict[str, int] = {}
        ends: dict[str, int] = {}
        for ref in refs.values():
            live[ref.pack] = live.get(ref.pack, 0) + ref.size_bytes
            ends[ref.pack] = max(ends.get(ref.pack, 0), ref.offset + ref.size_bytes)
        whole = {pack: max(self._sizes.get(pack, 0), end) for pack, end in ends.items()}
        sparse = {
            pack
            for pack, size in live.items()
            if size < _LIVE_SHARE * whole[pack] and whole[pack] - size >= _WORTH_BYTES
        }
        return [one for one, ref in refs.items() if ref.pack in sparse]

    def publish(
        self,
        manifest: Manifest | None,
        *,
        change: Callable[[Head], Head] = lambda head: head,
        executed: bool = False,
        release: bool = False,
    ) -> Head:
        """Make ``manifest`` (if it is newer than the head's) and all new events the run's newest word.

        Args:
            change: a further change to the head.
            executed: send the executed notebook along, if it changed.
            release: let go of the lease with it.
        Raises:
            LeaseLost: another attempt holds the run; nothing of this is visible.
            StoreUnavailable: unknown whether it landed; call again.
        """
        head = self._lease.head
        draft: _PublishDraft | None = None
        if manifest is not None and manifest.seq > (head.checkpoint.seq if head.checkpoint else 0):
            for stale in self._outgoing.iterdir():
                stale.unlink(missing_ok=True)  # of a publish that was never confirmed
            draft = self._prepare(manifest, head)
        lines, offset = self._mailbox.events_since(self._offset)
        notebook = self._notebook() if executed else b""
        has_page = self._lease.store.has_pages
        if has_page and draft is not None:
            self._card.collect(head, draft.manifest.seq)
        dropped: list[str] = []
        # Named by no head since the publish before: should the newest head be damaged, the one before it still finds
        # all that it names.
        garbage = sorted(self._condemned)[:_DROPS]

        def edit(head: Head) -> Edit:
            dropped.clear()
            files: dict[str, Source] = {}
            if draft is not None and (head.checkpoint is None or head.checkpoint.seq < draft.ref.seq):
                files.update(draft.files)
                head = replace(head, checkpoints=self._keep_refs(draft.ref, head), sent=self._count(head, draft))
                if draft.rows:
                    head = self._chain(head, "outbox", draft.rows, files, dropped)
            if lines:
                head = self._chain(head, "journal", lines, files, dropped)
            if notebook:
                name = f"executed/t{self._lease.term}-{uuid.uuid4().hex[:8]}.ipynb"
                files[name] = notebook
                if head.executed:
                    dropped.append(head.executed)
                head = replace(head, executed=name)
            self._mine.update(files)
            self._is_untidy = self._is_untidy or bool(files)
            head = change(head)
            shown = (
                self._card.page(head, draft.manifest if draft else self._newest)
                if has_page and (executed or release)
                else None
            )
            return Edit(head=head, files=files, drop=garbage, page=shown)

        head = self._lease.release(edit) if release else self._lease.update(edit)
        self._condemned.difference_update(garbage)
        self._mine.difference_update(garbage)
        if lines:
            self._offset = offset
            with contextlib.suppress(OSError):  # a full disk: a second agent would publish those lines again
                self._mailbox.write_offset(offset)
        if notebook:
            self._executed = notebook
        if draft is not None:
            self.newest_bytes = draft.ref.size_bytes
            for file in draft.files.values():
                if isinstance(file, Path):
                    file.unlink(missing_ok=True)
            if any(ref.name == draft.ref.name for ref in head.checkpoints):
                self._newest = draft.manifest
                self._manifests[draft.ref.name] = draft.manifest
            else:
                # An earlier try of ours had landed though its reply was lost: its packs are the ones to build on.
                self._newest = self._published(head)
            # One publish late, for the same reason as `garbage`.
            self._tier.drop_rows(self._dropped_seq)
            self._dropped_seq = draft.ref.seq
        if self._is_untidy:
            # A beat alone drops nothing, and to list the store for each would cost more than the beat.
            self._condemn(head, dropped)
        if draft is not None:
            with contextlib.suppress(StoreError):
                self._lease.store.reclaim(head.run)
        return head

    def _count(self, head: Head, draft: _PublishDraft) -> Mapping[str, int]:
        release_s = self._lease.store.release_s
        if release_s <= 0:
            return head.sent
        return count_publish(head.sent, draft.ref.size_bytes, wall_ms=SystemClock().wall_ms(), release_s=release_s)

    def _published(self, head: Head) -> Manifest | None:
        if head.checkpoint is None:
            return None
        try:
            return self._manifest(head.checkpoint)
        except (StoreError, CheckpointError, KeyError):
            return None  # then the next one stands on its own

    def _notebook(self) -> bytes:
        try:
            data = self._mailbox.executed.read_bytes()
        except FileNotFoundError:
            return b""
        return b"" if data == self._executed else data

    def _chain(self, head: Head, name: str, lines: bytes, files: dict[str, Source], dropped: list[str]) -> Head:
        tip = getattr(head, name)
        try:
            segment = journal.append(tip, lines, folder=name, term=self._lease.term, read=self._read)
        except Missing:
            # A rival replaces a segment once, and the next look at the head names the new one. One that stays away
            # is lost, and to wait for it would be for ever.
            self._missing[tip] = self._missing.get(tip, 0) + 1
            if self._missing[tip] < GONE_LOOKS:
                raise
            self._mailbox.note(
                journal.event(
                    "trouble", term=self._lease.term, message=f"{tip} is gone from {self._lease.store.address}"
                )
            )
            segment = journal.append("", lines, folder=name, term=self._lease.term, read=self._read)
        files[segment.name] = segment.data
        if segment.replaced:
            dropped.append(segment.replaced)
        return replace(head, **{name: segment.name})  # type: ignore[arg-type]  # name is journal or outbox

    def _condemn(self, head: Head, dropped: list[str]) -> None:
        """Find what the next publish may drop: what our own confirmed heads dropped, what failed tries stored."""
        named = {head.source, head.executed, head.journal, head.outbox}
        try:
            named |= self._chained_names(head)
            for ref in head.checkpoints:
                named |= {ref.name, *(o.pack for o in self._manifest(ref).objects.values())}
            stored = self._lease.store.names(head.run)
        except (StoreError, codec.DecodeError, KeyError):
            return  # tidying can wait for the next publish; a head that cannot be followed deletes nothing
        self._mine.update(dropped)
        self._condemned = {n for n in stored if n in self._mine or self._is_superseded(n, head)} - named
        self._is_untidy = bool(self._condemned)

    def _chained_names(self, head: Head) -> set[str]:
        """The segments of both chains; each is read once for its link."""
        names: set[str] = set()
        for tip in (head.journal, head.outbox):
            name = tip
            while name:
                names.add(name)
                name = self._prev(name)
        return names

    def _prev(self, name: str) -> str:
        if name not in self._links:
            self._links[name] = journal.predecessor(self._read(name))
        return self._links[name]

    def _is_superseded(self, name: str, head: Head) -> bool:
        """Objects of epochs before ours: no other attempt can ever name them in a new head."""
        folder, _, rest = name.partition("/")
        if folder not in ("packs", "checkpoints", "journal", "outbox", "executed"):
            return False
        term = rest[1:].partition("-")[0]
        return term.isdigit() and int(term) < head.term

    def _manifest(self, ref: CheckpointRef) -> Manifest:
        if ref.name not in self._manifests:
            try:
                self._manifests[ref.name] = manifests.loads(self._read(ref.name), name=ref.name)
            except Missing:
                # A damaged store: nothing can be said about its packs, so nothing of that epoch is deleted.
                raise KeyError(ref.name) from None
        return self._manifests[ref.name]

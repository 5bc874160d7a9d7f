"""From the local tier to the store: a checkpoint, its rows and the journal in one publish."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qcity_nb import codec, crashpoints, settings
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.digest import blake3_of
from qcity_nb.checkpoint.retention import Candidate, Keep, names_left, select
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import record_pages
from qcity_nb.checkpoint.storage.local_tier import SMALL, LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.checkpoint.storage.pack import Lazy, ObjectRef, write_pack
from qcity_nb.clock import SystemClock, iso_now
from qcity_nb.errors import CheckpointError, Missing, StoreError
from qcity_nb.ports import Source
from qcity_nb.published.read import manifest_of
from qcity_nb.records import CheckpointRef, Head
from qcity_nb.run import journal
from qcity_nb.run.lease import Edit, Lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.sidecar.publish_rate import count_publish
from qcity_nb.sidecar.restore import write_published
from qcity_nb.sidecar.store_page import RunPage
from qcity_nb.tracking.outbox import decode_rows

__all__ = ["Publisher"]

_NEW_SHARE = 0.9
"""A local pack of which at least this share is new is published as it is."""
_LIVE_SHARE = 0.5
"""A published pack of which less than this share is needed is not kept."""
_WORTH_BYTES = 1 << 20
"""To free less than this, nothing is sent again."""
_DROPS = 40
"""Objects dropped with one publish at most: a commit on the Hub should stay under 100 files."""
GONE_LOOKS = 5
"""How often in a row a segment is looked up that the run record names and the store does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PublishDraft:
    """A local checkpoint, prepared for the store."""

    manifest: Manifest
    files: dict[str, Source]
    rows: bytes
    ref: CheckpointRef


class Publisher:
    """Publishes under one lease. Not thread-safe."""

    def __init__(
        self, lease: Lease, mailbox: Mailbox, tier: LocalTier, *, published: Manifest | None, keep: Keep | None = None
    ) -> None:
        self._lease = lease
        self._mailbox = mailbox
        self._tier = tier
        self._manifests: dict[str, Manifest] = {}
        """Manifests named by the confirmed run record, as far as this attempt has read them."""
        self._newest = published
        self._keep = keep or Keep()
        self._key = settings.signing_key()
        self._links: dict[str, str] = {}
        self._offset = mailbox.offset()
        self._missing: dict[str, int] = {}
        """How often a chain's newest segment was missing."""
        self._condemned: set[str] = set()
        """Objects that the last publish left unnamed: the next one drops them."""
        self._is_untidy = True
        """Something was stored, or is to be dropped, since the store was last seen without garbage."""
        self._dropped_seq = 0
        """Rows up to this checkpoint are in the store since the publish before the last."""
        self._mine: set[str] = set()
        """Objects that this attempt stored: those that no confirmed run record names may be deleted."""
        self._sizes: dict[str, int] = {}
        """Bytes of the packs that this attempt published."""
        self.newest_bytes = 0
        """Bytes sent for the newest checkpoint; 0: this attempt has sent none."""
        self._run_page = RunPage(lease.store, tier)
        self._executed = b""
        self._outgoing = tier.path / "outgoing"
        """Packs on their way to the store."""
        shutil.rmtree(self._outgoing, ignore_errors=True)
        self._outgoing.mkdir(parents=True)

    @property
    def live_bytes(self) -> int:
        """The size of the newest published checkpoint's objects."""
        return self._newest.size_bytes if self._newest is not None else 0

    @property
    def _read(self) -> Callable[[str], bytes]:
        return lambda name: self._lease.store.get(self._lease.run, name)

    @property
    def changes(self) -> Sequence[Mapping[str, Any]]:
        """What changed while the run was resumed, as the newest published checkpoint lists it."""
        return self._newest.values.get("changes", ()) if self._newest is not None else ()

    def _prepare(self, manifest: Manifest, head: Head) -> _PublishDraft:
        """Prepare a checkpoint: only what the newest published manifest does not have goes into a new pack."""
        base = self._newest
        term = self._lease.term
        known = dict(base.objects) if base is not None and head.checkpoint is not None else {}
        needed = manifest.objects.keys()
        refs: dict[str, ObjectRef] = {key: known[key] for key in needed if key in known}
        pages = base.pages if base is not None and known else ()
        settled = {key for key in record_pages.closing(manifest, pages) if manifest.objects[key].size_bytes <= SMALL}
        for key in settled.union(self._find_sparse(refs)) & refs.keys():
            del refs[key]
        new = [key for key in needed if key not in refs]
        files: dict[str, Source] = {}
        if new:
            refs.update(self._pack(manifest, new, files))
        size = sum(path.stat().st_size for path in files.values() if isinstance(path, Path))
        whole = replace(manifest, objects=refs, term=term)
        prefix = f"t{term}-{manifest.seq}-{uuid.uuid4().hex[:8]}"
        stored, added = record_pages.split(whole, prefix, pages)
        data = manifests.dumps(signing.sign(stored, self._lease.run, self._key))
        name = f"checkpoints/{prefix}.json"
        files[name] = data
        files |= {f"{record_pages.FOLDER}/{page}": content for page, content in added.items()}
        ref = CheckpointRef(
            name=name,
            digest=manifests.digest(data),
            seq=manifest.seq,
            term=term,
            step=manifest.step,
            cells=max((count for count, cell in enumerate(manifest.cells, 1) if cell.namespace is not None), default=0),
            size_bytes=size + len(data) + sum(map(len, added.values())),
            at=iso_now(),
            label=str(manifest.values.get("name", "")),
            values=self._best_value(manifest.seq),
        )
        top = head.checkpoint.seq if head.checkpoint else 0
        rows = b"".join(b'{"seq":%d}\n' % seq + self._tier.rows(seq) for seq in range(top + 1, manifest.seq + 1))
        return _PublishDraft(manifest=replace(whole, pages=stored.pages), files=files, rows=rows, ref=ref)

    def _best_value(self, seq: int) -> dict[str, float]:
        """The value of the metric that decides which checkpoint is the best.

        Only rows that this checkpoint added count: an older value belongs to another state.
        """
        best = self._keep.best
        values = [row.value for row in decode_rows(self._tier.rows(seq)) if row.key == best] if best is not None else []
        return {best: values[-1]} if best is not None and values and math.isfinite(values[-1]) else {}

    def _keep_refs(self, new: CheckpointRef, head: Head) -> tuple[CheckpointRef, ...]:
        """The checkpoints that the next run record names, newest first."""
        if new.label and not names_left(sum(1 for ref in head.checkpoints if ref.label), self._keep):
            message = f"checkpoint {new.seq} cannot be named {new.label!r}: the run may have no more named checkpoints"
            self._mailbox.note(journal.event("trouble", term=self._lease.term, message=message))
            new = replace(new, label="")
        refs = {ref.seq: ref for ref in (new, *head.checkpoints)}
        candidates = [
            Candidate(seq=ref.seq, step=ref.step, value=ref.values.get(self._keep.best or ""), name=ref.label)
            for ref in refs.values()
        ]
        return tuple(refs[candidate.seq] for candidate in select(candidates, self._keep))

    def _pack(self, manifest: Manifest, new: list[str], files: dict[str, Source]) -> dict[str, ObjectRef]:
        """Place the objects ``new`` into packs, which go into ``files``. Returns where each object is.

        A new local pack is sent as it is, by a hard link: local packs are never written to again, so nothing has to
        be copied. The remaining objects go into one more pack.
        """
        term, refs, rest = self._lease.term, {}, []
        local: dict[str, list[str]] = {}
        for key in new:
            local.setdefault(manifest.objects[key].pack, []).append(key)
        with self._tier.open_reader(manifest) as read:
            seals = {key: blake3_of(data) for key, data in read.walk(new)}
            for pack, names in local.items():
                path = self._name_objects(manifest)
                if not self._link(pack, path, sum(manifest.objects[key].size_bytes for key in names)):
                    rest += names
                    continue
                files[f"packs/{path.name}"] = path
                for key in names:
                    refs[key] = replace(manifest.objects[key], pack=f"packs/{path.name}", blake3=seals[key])
            if rest:
                path = self._name_objects(manifest)
                placed = write_pack(
                    path,
                    Lazy({key: manifest.objects[key] for key in rest}, read),
                    term=term,
                    size=sum(manifest.objects[key].size_bytes for key in rest),
                    blake3=lambda key, data: seals[key],
                )
                files[f"packs/{path.name}"] = path
                refs.update({key: replace(ref, pack=f"packs/{path.name}") for key, ref in placed.items()})
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
                return False  # too much of it is in the store already, or not needed
            os.link(source, path)
        except OSError:
            return False  # dropped meanwhile, or no hard links here: it is read through the open file
        return True

    def _find_sparse(self, refs: Mapping[str, ObjectRef]) -> list[str]:
        """The objects in published packs that are mostly unused: sent once more, so that the packs can be dropped."""
        live: dict[str, int] = {}
        ends: dict[str, int] = {}
        for ref in refs.values():
            live[ref.pack] = live.get(ref.pack, 0) + ref.footprint_bytes
            ends[ref.pack] = max(ends.get(ref.pack, 0), ref.offset + ref.size_bytes)
        whole = {pack: max(self._sizes.get(pack, 0), end) for pack, end in ends.items()}
        sparse = {
            pack
            for pack, size in live.items()
            if size < _LIVE_SHARE * whole[pack] and whole[pack] - size >= _WORTH_BYTES
        }
        return [key for key, ref in refs.items() if ref.pack in sparse]

    def publish(
        self,
        manifest: Manifest | None,
        *,
        change: Callable[[Head], Head] = lambda head: head,
        executed: bool = False,
        release: bool = False,
    ) -> Head:
        """Publish ``manifest`` (if it is newer than the run record's) and all new events.

        Args:
            change: a further change to the run record.
            executed: send the executed notebook too, if it changed.
            release: release the lease in the same write.
        Raises:
            LeaseLost: another attempt holds the run; nothing of this is visible.
            StoreUnavailable: the outcome is unknown; call again.
        """
        head = self._lease.head
        draft: _PublishDraft | None = None
        if manifest is not None and manifest.seq > (head.checkpoint.seq if head.checkpoint else 0):
            for stale in self._outgoing.iterdir():
                stale.unlink(missing_ok=True)  # of a publish that was never confirmed
            draft = self._prepare(manifest, head)
        lines, offset = self._mailbox.events_since(self._offset)
        notebook = self._changed_notebook() if executed else b""
        has_page = self._lease.store.has_pages
        if has_page and draft is not None:
            self._run_page.collect(head, draft.manifest.seq)
        dropped: list[str] = []
        # Unnamed since the previous publish. If the newest run record is damaged, the one before it still finds all
        # that it names.
        garbage = sorted(self._condemned)[:_DROPS]

        def edit(head: Head) -> Edit:
            dropped.clear()
            files: dict[str, Source] = {}
            if draft is not None and (head.checkpoint is None or head.checkpoint.seq < draft.ref.seq):
                files.update(draft.files)
                head = replace(head, checkpoints=self._keep_refs(draft.ref, head), sent=self._account(head, draft))
                if draft.rows:
                    head = self._append(head, "outbox", draft.rows, files, dropped)
            if lines:
                head = self._append(head, "journal", lines, files, dropped)
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
                self._run_page.page(head, draft.manifest if draft else self._newest)
                if has_page and (executed or release)
                else None
            )
            return Edit(head=head, files=files, drop=garbage, page=shown)

        head = self._lease.release(edit) if release else self._lease.update(edit)
        self._condemned.difference_update(garbage)
        self._mine.difference_update(garbage)
        if lines:
            self._offset = offset
            with contextlib.suppress(OSError):  # on a full disk: a second sidecar would publish those lines again
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
                # An earlier try was stored though its reply was lost: its packs are the ones to build on.
                self._newest = self._read_published(head)
            # One publish later, for the same reason as `garbage`.
            self._tier.drop_rows(self._dropped_seq)
            self._dropped_seq = draft.ref.seq
            if head.checkpoint is not None:
                with contextlib.suppress(OSError):
                    write_published(self._tier.path, head.checkpoint)
        if self._is_untidy:
            # A mere heartbeat drops nothing, and to list the store would cost more than the heartbeat.
            self._condemn(head, dropped)
        if draft is not None:
            with contextlib.suppress(StoreError):
                self._lease.store.reclaim(head.run)
        return head

    def _account(self, head: Head, draft: _PublishDraft) -> Mapping[str, int]:
        release_s = self._lease.store.release_s
        if release_s <= 0:
            return head.sent
        return count_publish(head.sent, draft.ref.size_bytes, wall_ms=SystemClock().wall_ms(), release_s=release_s)

    def _read_published(self, head: Head) -> Manifest | None:
        if head.checkpoint is None:
            return None
        try:
            return self._read_manifest(head.checkpoint)
        except (StoreError, CheckpointError, KeyError):
            return None  # then the next checkpoint is sent whole

    def _changed_notebook(self) -> bytes:
        try:
            data = self._mailbox.executed.read_bytes()
        except FileNotFoundError:
            return b""
        return b"" if data == self._executed else data

    def _append(self, head: Head, name: str, lines: bytes, files: dict[str, Source], dropped: list[str]) -> Head:
        tip = getattr(head, name)
        try:
            segment = journal.append(tip, lines, folder=name, term=self._lease.term, read=self._read)
        except Missing:
            # Another writer may have replaced the segment: then the next run record names the new one. A segment that
            # stays missing is lost; to wait for it would never end.
            self._missing[tip] = self._missing.get(tip, 0) + 1
            if self._missing[tip] < GONE_LOOKS:
                raise
            self._mailbox.note(
                journal.event(
                    "trouble", term=self._lease.term, message=f"{tip} is missing in {self._lease.store.address}"
                )
            )
            segment = journal.append("", lines, folder=name, term=self._lease.term, read=self._read)
        if segment.lost:
            message = f"{segment.lost} cannot be decoded: it is lost, and what was before it"
            self._mailbox.note(journal.event("trouble", term=self._lease.term, message=message))
        files[segment.name] = segment.data
        if segment.replaced:
            dropped.append(segment.replaced)
        return replace(head, **{name: segment.name})  # type: ignore[arg-type]  # name is journal or outbox

    def _condemn(self, head: Head, dropped: list[str]) -> None:
        """Find what the next publish may drop: what confirmed run records dropped, what failed tries stored."""
        named = {head.source, head.executed, head.journal, head.outbox}
        there = {ref.name for ref in head.checkpoints}
        self._manifests = {name: manifest for name, manifest in self._manifests.items() if name in there}
        try:
            named |= self._chained_names(head)
            for ref in head.checkpoints:
                manifest = self._read_manifest(ref)
                named |= {ref.name, *(o.pack for o in manifest.objects.values())}
                named |= {f"{record_pages.FOLDER}/{page.name}" for page in manifest.pages}
            stored = self._lease.store.names(head.run)
        except (StoreError, CheckpointError, codec.DecodeError, KeyError):
            return  # this can wait for the next publish; without all names nothing is deleted
        self._mine.update(dropped)
        self._condemned = {n for n in stored if n in self._mine or self._is_superseded(n, head)} - named
        self._is_untidy = bool(self._condemned)

    def _chained_names(self, head: Head) -> set[str]:
        """The names of the segments of both chains; each is read once for its link."""
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
        """Is it an object of an earlier term? No other attempt can name it in a new run record."""
        folder, _, rest = name.partition("/")
        if folder not in ("packs", "checkpoints", "journal", "outbox", "executed", record_pages.FOLDER):
            return False
        term = rest[1:].partition("-")[0]
        return term.isdigit() and int(term) < head.term

    def _read_manifest(self, ref: CheckpointRef) -> Manifest:
        if ref.name not in self._manifests:
            try:
                known = self._newest.pages if self._newest is not None else ()
                self._manifests[ref.name] = manifest_of(self._lease.store, self._lease.run, ref, known)
            except Missing:
                # A damaged store: the packs of this manifest are unknown, so nothing is deleted.
                raise KeyError(ref.name) from None
        return self._manifests[ref.name]

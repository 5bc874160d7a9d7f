"""Who vouches for a checkpoint: checked before anything in it is unpickled, which runs code.

With the project's key (``QCITY_KEY``, the same on all hosts) checkpoints are signed, HMAC-SHA256 over the run's id and
the manifest, which names all content by digest. Without one, a store is trusted as far as others cannot write to it.

Does not: hide anything, or keep somebody who can write to the store from putting an older checkpoint of the same run
back, or from deleting it.
Source: RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.errors import CheckpointUntrusted

__all__ = ["check", "key_id", "sign"]

VERSION = 1


def key_id(key: bytes) -> str:
    """What the key is called: it tells keys apart, and says nothing about this one."""
    return hashlib.blake2b(key, digest_size=4, person=b"qcity key id").hexdigest()


def _value(manifest: Manifest, run: str, key: bytes) -> str:
    told = run.encode() + b"\0" + manifests.dumps(replace(manifest, signature={}))
    return hmac.new(key, told, hashlib.sha256).hexdigest()


def sign(manifest: Manifest, run: str, key: bytes | None) -> Manifest:
    """The manifest with a signature; without a key as it is, and without one."""
    if key is None:
        return replace(manifest, signature={})
    return replace(manifest, signature={"version": VERSION, "key": key_id(key), "value": _value(manifest, run, key)})


def check(manifest: Manifest, run: str, key: bytes | None, *, where: str, trust_problem: str) -> None:
    """Refuse a checkpoint that nobody vouches for.

    Args:
        where: what the messages call the place that it comes from.
        objection: why that place is not to be trusted without a signature; empty: it is.
    Raises:
        CheckpointUntrusted: it is not signed with this key, there is no key to check it with, or others can write
            there.
    """
    name = f"checkpoint {manifest.seq} in {where}"
    signature = manifest.signature
    if key is None:
        if signature:
            raise CheckpointUntrusted(f"{name} is signed with the key {signature.get('key')}: set QCITY_KEY to it")
        if trust_problem:
            raise CheckpointUntrusted(f"{name} is not signed, and {trust_problem}")
        return
    if not signature:
        raise CheckpointUntrusted(
            f"{name} is not signed, and QCITY_KEY is set: unset it for a run that began without a key"
        )
    value = str(signature.get("value", ""))
    if signature.get("version") != VERSION or not hmac.compare_digest(
        value.encode(), _value(manifest, run, key).encode()
    ):
        raise CheckpointUntrusted(
            f"{name} is not signed with this key ({key_id(key)}, it says {signature.get('key')}): "
            "QCITY_KEY is another one, or somebody has changed the checkpoint"
        )

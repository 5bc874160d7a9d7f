"""Signatures of checkpoints: checked before anything is unpickled, because unpickling runs code.

With the project's key (``QCITY_KEY``, the same on all hosts) checkpoints are signed with HMAC-SHA256, over the run's id
and the manifest, which names all content by digest. Without a key, a store is trusted only if nobody else can write
to it.

Does not: encrypt anything; prevent somebody who can write to the store from putting back an older checkpoint of the
same run, or from deleting one.
Source: RFC 2104.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace

from qcity_nb import codec
from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage.manifest import Manifest
from qcity_nb.errors import CheckpointUntrusted

__all__ = ["check", "key_id", "sign"]

VERSION = 1


def key_id(key: bytes) -> str:
    """A short name of the key: it distinguishes keys and reveals nothing about this one."""
    return hashlib.blake2b(key, digest_size=4, person=b"qcity key id").hexdigest()


def _value(manifest: Manifest, run: str, key: bytes) -> str:
    # What was read is checked as it was written: by this version, an older manifest would be written with more fields.
    text = codec.canonical(json.loads(manifest.text) | {"signature": {}}) if manifest.text else None
    message = run.encode() + b"\0" + (text or manifests.dumps(replace(manifest, signature={})))
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def sign(manifest: Manifest, run: str, key: bytes | None) -> Manifest:
    """The manifest, as it is to be stored, with a signature; without a key, without one."""
    manifest = replace(manifest, text=b"")
    if key is None:
        return replace(manifest, signature={})
    return replace(manifest, signature={"version": VERSION, "key": key_id(key), "value": _value(manifest, run, key)})


def check(manifest: Manifest, run: str, key: bytes | None, *, where: str, trust_problem: str) -> None:
    """Refuse a checkpoint that is not trusted.

    Args:
        where: the name of its store in messages.
        trust_problem: why that store is not trusted without a signature; empty: it is.
    Raises:
        CheckpointUntrusted: it is not signed with this key, there is no key to check it with, or others can write to
            the store.
    """
    name = f"checkpoint {manifest.seq} in {where}"
    signature = manifest.signature
    if key is None:
        if signature:
            raise CheckpointUntrusted(
                f"{name} is signed with the key {signature.get('key')}: set QCITY_KEY to that key"
            )
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
            "QCITY_KEY is a different key, or the checkpoint was changed"
        )

"""Objects are named by a hash of their content.

Two hashes answer two questions. *Did this change?* XXH3-128, at the speed of memory, names an object: it detects
changes and damage, but an attacker can make collisions. *Is this what the holder published?* BLAKE3, a cryptographic
hash, is stored with each object's place in a published manifest, and the run record has the manifest's own digest. The
sidecar computes it when it publishes, not in the training loop's time. Sources: docs/design.md, "The checkpoint
engine"; https://xxhash.com (XXH3), https://github.com/BLAKE3-team/BLAKE3-specs.
"""

from __future__ import annotations

import xxhash
from blake3 import blake3

from qcity_nb.checkpoint.buffer import Buffer

__all__ = ["SLICE", "blake3_of", "name_of"]

SLICE = 1 << 20
"""Bytes of a slice: a larger buffer is stored as several objects, so that a small change is a small write."""


def name_of(data: Buffer) -> str:
    """The name of a content: ``x3-`` and 32 hex digits of XXH3-128."""
    return "x3-" + xxhash.xxh3_128_hexdigest(data)


def blake3_of(data: Buffer) -> str:
    """64 hex digits of BLAKE3."""
    return blake3(data).hexdigest()

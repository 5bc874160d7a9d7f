"""Names of contents.

Two hashes, for two questions. *Is this what it was?* XXH3-128, at the speed of memory, names an object: it tells
changed from unchanged and damaged from whole. It does not stand up to somebody who wants a collision. *Is this what
the holder published?* BLAKE3, a cryptographic hash, lies beside each object's place in a published manifest, whose own
digest the head names; the agent computes it when it publishes, off the training loop's time. Sources: docs/design.md,
"The checkpoint engine"; https://xxhash.com (XXH3), https://github.com/BLAKE3-team/BLAKE3-specs.
"""

from __future__ import annotations

import xxhash
from blake3 import blake3

from qcity_nb.checkpoint.buffer import Buffer

__all__ = ["SLICE", "blake3_of", "name_of"]

SLICE = 1 << 20
"""Bytes of a slice: a buffer larger than this is several objects, so that a small change is a small write."""


def name_of(data: Buffer) -> str:
    """The name of a content: ``x3-`` and 32 hex digits of XXH3-128."""
    return "x3-" + xxhash.xxh3_128_hexdigest(data)


def blake3_of(data: Buffer) -> str:
    """64 hex digits of BLAKE3."""
    return blake3(data).hexdigest()

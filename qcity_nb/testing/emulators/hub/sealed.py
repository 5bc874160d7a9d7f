"""Secrets at rest: a copy of the database alone does not give them away.

Against somebody who can read the emulator's folder this is no protection: the key lies in it, as ``sealing.key``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Seal"]


class Seal:
    """Seals with the key in ``folder``, which is made at the first use."""

    def __init__(self, folder: Path) -> None:
        path = folder / "sealing.key"
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(handle, secrets.token_bytes(32))
            os.close(handle)
        self._key = path.read_bytes()

    def close_up(self, values: Mapping[str, str]) -> str:
        """``values``, sealed; the empty string if there are none."""
        if not values:
            return ""
        nonce = secrets.token_bytes(16)
        text = self._mixed(json.dumps(dict(values)).encode(), nonce)
        return (nonce + self._sign(nonce + text) + text).hex()

    def open_up(self, sealed: str) -> dict[str, str]:
        """What was sealed.

        Raises:
            ValueError: it was not sealed with this key.
        """
        if not sealed:
            return {}
        data = bytes.fromhex(sealed)
        nonce, tag, text = data[:16], data[16:48], data[48:]
        if not hmac.compare_digest(tag, self._sign(nonce + text)):
            raise ValueError("sealed with another key")
        opened = json.loads(self._mixed(text, nonce))
        return {str(name): str(value) for name, value in opened.items()}

    def _sign(self, data: bytes) -> bytes:
        return hmac.digest(self._key, b"mark" + data, "sha256")

    def _mixed(self, data: bytes, nonce: bytes) -> bytes:
        # One SHAKE over key and nonce is as long as it must be; its own inverse, by exclusive or.
        stream = hashlib.shake_256(self._key + b"stream" + nonce).digest(len(data))
        return bytes(byte ^ other for byte, other in zip(data, stream, strict=True))

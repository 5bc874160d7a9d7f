"""The types that functions accept as bytes."""

from __future__ import annotations

__all__ = ["Buffer"]


Buffer = bytes | bytearray | memoryview

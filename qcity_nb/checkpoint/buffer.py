"""What may be handed over as bytes."""

from __future__ import annotations

__all__ = ["Buffer"]


Buffer = bytes | bytearray | memoryview

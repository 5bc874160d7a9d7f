"""The error for an object that cannot be saved, or cannot be restored."""

from __future__ import annotations

from qcity_nb.checkpoint.state.pickling import Refused

__all__ = ["Lost"]


class Lost(Refused):
    """Raised while an object is pickled or loaded: it cannot exist in another process.

    Args:
        why: one clause.
        advice: what the user can do about it.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why, advice)
        self.why = why
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.why}: {self.advice}" if self.advice else self.why

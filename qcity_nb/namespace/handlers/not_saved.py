"""An object that is not saved, or not found again."""

from __future__ import annotations

from qcity_nb.checkpoint.state.pickling import Refused

__all__ = ["Lost"]


class Lost(Refused):
    """Raised while an object is pickled or loaded: it cannot be there in another process.

    Args:
        why: one clause.
        advice: what the user can do.
    """

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why, advice)
        self.why = why
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.why}: {self.advice}" if self.advice else self.why

"""Attempts in words: the launches that failed before one began."""

from __future__ import annotations

from qcity_nb.records import Head

__all__ = ["describe_failed_launches"]


def describe_failed_launches(head: Head, attempt: str = "it") -> str:
    """How many launches failed before the newest attempt began, or after it; empty if none did.

    A launch that ended before its attempt held the lease has no number: attempt 3 may be the fifth launch.

    Args:
        attempt: what the sentence calls the newest attempt: "it" where that was just named.
    """
    count = head.launches.failed
    if not count or head.launches.term < head.term - 1:
        return ""
    launches = f"{count} launch{'es' if count != 1 else ''}"
    is_later = head.launches.term == head.term > 0
    return f"{launches} failed {'after' if is_later else 'before'} {attempt}{'' if is_later else ' began'}"

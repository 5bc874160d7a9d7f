"""Calls of the Hub's client that were given up continue in their own threads until its retries are used up."""

from __future__ import annotations

import threading


def join_given_up() -> None:
    """Wait for them.

    With each failed connection the client closes the one session of the whole process (huggingface_hub's
    ``http_backoff``), under the feet of whatever uses it next.
    """
    for thread in threading.enumerate():
        if thread.name in ("hub", "hf-jobs"):
            thread.join(70)

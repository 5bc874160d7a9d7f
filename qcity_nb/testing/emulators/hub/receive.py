"""How bodies are received: at the pace that faults set, cut where they say, with calls of the hooks."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.web import Gone, Kind, Request

__all__ = ["receive", "receive_file"]

CHUNK = 1 << 18


def receive(hub: Hub, request: Request, kind: Kind, name: str) -> Iterator[bytes]:
    """An upload's body; hooks are called with ``name``.

    Raises:
        Gone: a fault cuts it, the client went away, or the server stops.
    """
    faults = hub.faults
    faults.fire("upload.begin", name=name, kind=kind)
    is_cut = faults.strike("upload-cut", kind) is not None
    rate = faults.strike("upload-slow", kind)
    began, done, is_half = time.monotonic(), 0, False
    half = (request.size or 0) / 2
    for part in request.stream(CHUNK if rate is None else max(1, min(CHUNK, int(rate / 20)))):
        done += len(part)
        if not is_half and done >= half:
            is_half = True
            faults.fire("upload.half", name=name, kind=kind)
            if is_cut:
                raise Gone("the fault upload-cut")
        if rate is not None and hub.stopping.wait(max(0.0, done / rate - (time.monotonic() - began))):
            raise Gone("the server stops")
        yield part
    if is_cut and not is_half:
        raise Gone("the fault upload-cut")


def receive_file(hub: Hub, request: Request, name: str, *, algorithms: tuple[str, ...]) -> tuple[Path, int, list[str]]:
    """An upload's body as a file of its own, with its size and digests; whoever is given it moves or deletes it."""
    folder = hub.folder / "incoming"
    folder.mkdir(exist_ok=True)
    digests = [hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms]
    descriptor, text = tempfile.mkstemp(dir=folder)
    size = 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in receive(hub, request, "storage", name):
                file.write(part)
                size += len(part)
                for digest in digests:
                    digest.update(part)
    except BaseException:  # a client that goes away too: nothing half received stays
        Path(text).unlink()
        raise
    return Path(text), size, [digest.hexdigest() for digest in digests]

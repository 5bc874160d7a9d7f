"""``qcity hub serve``: the Hub emulator in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from qcity_nb.errors import UsageError
from qcity_nb.settings import find_project
from qcity_nb.testing.emulators.hub.accounts import Users
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.views.words import short

__all__ = ["serve"]


def _faults(words: Iterable[str]) -> Faults:
    faults = Faults()
    for word in words:
        name, _, text = word.partition("=")
        try:
            faults.set(name, float(text or 1))
        except ValueError as error:
            raise UsageError(f"--fault {word}: {error}") from None
    return faults


def _token(folder: Path) -> str:
    """The one token of this directory's Hub: random, and the same after a restart, since jobs have it."""
    path = folder / "token"
    with contextlib.suppress(FileExistsError), open(path, "x", opener=_private, encoding="ascii") as file:
        file.write(f"hf_{secrets.token_urlsafe(24)}")
    return path.read_text(encoding="ascii").strip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    folder = Path(args.dir).expanduser() if args.dir else find_project(Path.cwd()).root / ".qcity" / "hub"
    if args.users and args.any_token:
        raise UsageError("either --users or --any-token")
    users = Users.load(Path(args.users).expanduser()) if args.users else Users.anybody()
    faults = _faults(args.fault)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("qcity_nb.testing.emulators.hub").setLevel(logging.INFO)
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    try:
        server = HubServer(folder, port=args.port, users=users, faults=faults)
    except OSError as error:
        raise UsageError(f"the emulator cannot use port {args.port} and {short(folder)}: {error}") from error
    shown = f"…  # one of the tokens in {short(Path(args.users))}" if args.users else "any"
    if not args.users and not args.any_token:
        shown = _token(folder)
        server.hub.users = Users.with_token(shown)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with server:
        print(f"Hugging Face Hub emulator, not the real Hub: {server.url}, stored in {short(folder)}")
        print(f"  export HF_ENDPOINT={server.url}")
        print(f"  export HF_TOKEN={shown}")
        print("Ctrl-C stops it.", flush=True)
        ended.wait()
    print("stopped")
    return 0

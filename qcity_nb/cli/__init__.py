"""The command ``qcity``: calls on the keeper, and views of the store.

``parser`` has the options and imports no command, so that ``qcity --help`` is fast. ``run`` starts and stops runs,
``view`` shows them, ``checkpoints`` is about their checkpoints, ``explain`` lists what a new host would find.

May import: root, run, checkpoint, namespace, stores, tracking, hosts, published, views, kernel, engine. Imported by:
nobody.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from qcity_nb.cli.parser import build_parser
from qcity_nb.errors import QcityError
from qcity_nb.printable import PrintableStream
from qcity_nb.settings import wants_traceback

__all__ = ["main"]


_ACTIONS = ("list", "diff", "verify", "export", "prune")


def _spell_out(words: Sequence[str]) -> list[str]:
    """`checkpoints RUN` as `checkpoints list RUN`."""
    argv = list(words)
    at = next((place for place, word in enumerate(argv) if not word.startswith("-")), len(argv))
    following = argv[at + 1 : at + 2]
    if argv[at : at + 1] == ["checkpoints"] and following and following[0] not in (*_ACTIONS, "-h", "--help"):
        argv.insert(at + 1, "list")
    return argv


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns: its exit code; see ``EXIT_CODES``. argparse itself exits with 2 on a wrong command line.
    """
    # Else the progress bars of the Hub's client appear between this command's own lines.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    args = build_parser().parse_args(_spell_out(sys.argv[1:] if argv is None else argv))
    out: Any = PrintableStream(sys.stdout)
    err: Any = PrintableStream(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err):
        return _call(args)


def _call(args: argparse.Namespace) -> int:
    try:
        return int(args.call(args))
    except QcityError as error:
        if args.traceback or wants_traceback():
            raise
        print(f"qcity: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `qcity ps | head`: the reader has closed the pipe. Keep the interpreter from writing again at exit.
        sys.stderr.close()
        return 0

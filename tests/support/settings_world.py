"""What one process sets in its libraries, looked at there and put in another: both are new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_ONE = """
import json, sys
from pathlib import Path
from qcity_nb import codec
from qcity_nb.namespace.environment.library_settings import Options
from qcity_nb.namespace.environment.process import Surroundings
def run(code):
    exec(code, vars(sys.modules["__main__"]))
first, imports, code, show = json.loads(sys.argv[1])
run(first)
options = Options(Path.cwd())
run(imports)
"""
_LOOK = (
    _ONE
    + """
run(code)
found = codec.dumps(Surroundings(options=options.look())).decode()
run(show)
print(json.dumps([found, result]))
"""
)
_PUT = (
    _ONE
    + """
messages = options.put(codec.loads(Surroundings, code.encode()).options)
again = options.put(codec.loads(Surroundings, code.encode()).options)
run(show)
print(json.dumps([[messages, again == messages], result]))
"""
)


@dataclass(frozen=True)
class Carried:
    """What came of it."""

    options: dict[str, dict[str, Any]]
    there: Any
    here: Any
    messages: list[str]


def _process(program: str, arguments: list[str], folder: Path, environ: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def carry(
    folder: Path, imports: str, code: str, show: str, *, first: str = "", environ: dict[str, str] | None = None
) -> Carried:
    """Run ``imports`` and ``code`` in one process; carry what it set into another that has run ``imports`` alone.

    Args:
        show: sets ``result``, in both.
        first: runs in both, before they remember how things were.
    """
    saved, shown_there = _process(_LOOK, [first, imports, code, show], folder, environ or {})
    (messages, is_same), here = _process(_PUT, [first, imports, saved, show], folder, environ or {})
    assert is_same, "put twice, it says the same"
    return Carried(json.loads(saved)["options"], shown_there, here, messages)

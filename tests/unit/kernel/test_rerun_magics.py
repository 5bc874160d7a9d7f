from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qcity_nb.kernel.rerun_magics import rerun

PROGRAM = """
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from qcity_nb.kernel.rerun_magics import rerun
shell = InteractiveShell.instance()
shell.user_ns.update(digits=4, line=5)
text = shell.display_formatter.formatters['text/plain']
Path('loud.py').write_text('def load_ipython_extension(shell):\\n    print(1)\\n    shell.user_ns["loud"] = 1')
Path('broken.py').write_text('def load_ipython_extension(shell):\\n    raise ValueError("why")')
notes = rerun(shell, [
    '%load_ext loud\\n%load_ext broken\\n%cd /\\nwrong = 1',
    '%precision $digits\\n%load_ext autoreload\\n%autoreload 2',
])
print(notes)
print(text.float_format, 'loud' in shell.user_ns, 'wrong' in shell.user_ns)
rerun(shell, ['%precision $line'])
print(text.float_format, 'autoreload' in str(shell.extension_manager.loaded))
"""


def test_in_order_quietly_and_what_fails_is_told(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    environ = {"PYTHONPATH": f"{Path(__file__).parents[3]}:{tmp_path}", "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        "['`%load_ext broken` could not be re-run (ValueError: why).']",
        "%.4f True False",
        "%.5f True",
    ]
    assert done.stderr == ""
    assert rerun(None, ["x = 1"]) == [], "a cell without any asks nothing of the shell"

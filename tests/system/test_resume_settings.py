"""What a passed cell set inside libraries and in the shell holds in the new kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from resume_world import DIED, ResumeWorld

pytestmark = [pytest.mark.kernel, pytest.mark.kill, pytest.mark.timeout(240)]

SETS = """
import decimal, logging, sys, warnings
import numpy as np, torch
torch.set_num_threads(1 if torch.get_num_threads() > 1 else 3)
torch.set_default_dtype(torch.float64)
torch.set_printoptions(precision=2, sci_mode=False)
torch.set_grad_enabled(False)
np.seterr(divide='raise')
decimal.getcontext().prec = 6
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(levelname)s of %(name)s: %(message)s')
logging.getLogger('quiet').setLevel(logging.ERROR)
mine = logging.getLogger('mine')
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter('mine: %(message)s'))
mine.addHandler(handler)
mine.propagate = False
to_file = logging.FileHandler('log.txt', mode='w')
logging.getLogger('filed').addHandler(to_file)
logging.getLogger('filed').warning('one')
class Own(UserWarning):
    pass
warnings.filterwarnings('ignore', message='not this')
warnings.simplefilter('error', Own)
"""
MAGICS = """
%load_ext autoreload
%autoreload 2
%config InlineBackend.figure_format='retina'
%precision 3
text = '''
%precision 7
'''
"""
SHOWS = """
import io
print(torch.get_num_threads(), torch.zeros(1).dtype, torch.tensor([1/3]), torch.is_grad_enabled())
print(decimal.Decimal(1) / 3, np.geterr()['divide'], np.array([1/3]))
for name in (None, 'quiet', 'mine', 'other', 'filed'):
    logging.getLogger(name).info('info')
    logging.getLogger(name).error('error')
mine.removeHandler(handler)
print(mine.handlers, logging.getLogger('filed').handlers == [to_file])
to_file.close()
print(Path('log.txt').read_text())
sys.stderr, kept = io.StringIO(), sys.stderr
warnings.warn('not this')
warnings.warn('but this')
try:
    warnings.warn('is an error', Own)
except Own as error:
    print('raised', error)
sys.stderr, shown = kept, sys.stderr.getvalue()
print([line for line in shown.splitlines() if 'this' in line and 'Warning' in line][0].rpartition(': ')[2])
"""
SHELL = """
from matplotlib_inline.config import InlineBackend
shell = get_ipython()
print(sorted(name for name in shell.extension_manager.loaded if 'autoreload' in name))
print(shell.magics_manager.registry['AutoreloadMagics']._reloader.enabled, InlineBackend.instance().figure_formats)
1 / 3
"""


@pytest.fixture
def world(tmp_path: Path) -> ResumeWorld:
    return ResumeWorld(tmp_path / "p")


def test_settings_and_magics_hold(world: ResumeWorld) -> None:
    for name in ("numpy", "torch", "matplotlib_inline"):
        pytest.importorskip(name)
    cells = [SETS, MAGICS.strip(), "die('here')", SHOWS, SHELL]
    world.write(*cells)
    world.attempt(code=DIED)
    world.attempt()
    assert world.ran() == [1, 1, 0, 2, 1, 1]
    (skipped,) = world.events("cells")
    assert (skipped.data["skipped"], skipped.data["notes"]) == (3, [])

    calm = ResumeWorld(world.folder.parent / "calm")
    calm.write(*cells)
    (calm.folder / "deaths/here").touch()
    calm.attempt()
    assert world.shown() == calm.shown()
    assert "mine: error" in world.shown()[4][0]
    assert "['IPython.extensions.autoreload']\nTrue {'retina'}\n" in world.shown()[5]
    assert world.shown()[5][-1] == "0.333"


def test_what_cannot_run_again_is_told(world: ResumeWorld) -> None:
    (world.folder / "ext.py").write_text("def load_ipython_extension(shell):\n    print('loaded')")
    rotating = "import logging.handlers\nlogging.getLogger('x').addHandler(logging.handlers.MemoryHandler(9))"
    world.write("%load_ext ext", rotating, "Path('ext.py').unlink()", "die('here')\nprint('on')")
    world.attempt(code=DIED)
    world.attempt()
    (skipped,) = world.events("cells")
    (magic, handler) = skipped.data["notes"]
    assert magic.startswith("`%load_ext ext` could not be re-run (ModuleNotFoundError")
    assert "MemoryHandler of the logger x" in handler
    assert world.shown()[4] == ["on\n"]

"""The panel's curves after a death: what earlier attempts logged is in them, each point once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import nightly_but

pytestmark = [pytest.mark.kill, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, signal, sys, time
import qcity_nb as qcity
from qcity_nb.hosts.detect import detect
from qcity_nb.kernel.panel_state import view_of

city = qcity.up(run="curve")
dies, state = int(sys.argv[1]), {"n": 0}
for n in city.loop(range(40), state=state, every=1):
    city.log(loss=float(n), **({"late": float(n)} if n >= 20 else {}))
    if n == dies - 2 and sys.argv[2] == "published":
        city.checkpoint()
    if n == dies:
        city.session.finish_save()
        os.kill(os.getpid(), signal.SIGKILL)
until = time.monotonic() + 20
while not city.session.sidecar.earlier() and time.monotonic() < until:
    time.sleep(0.05)
print(json.dumps({key: list(points) for key, points in view_of(city.session, detect()).metrics.items()}))
"""


def attempt(folder: Path, dies: int, how: str) -> dict[str, list[list[float]]]:
    """The curves that a host shows at its end, or none if it dies."""
    folder.mkdir(exist_ok=True)
    settings = f'[tool.qcity]\nproject = "p"\ntracking = ""\nstore = "{folder.parent / "store"}"\n'
    (folder / "pyproject.toml").write_text(settings)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QCITY_")}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SCRIPT, str(dies), how]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=90, check=False)
    if dies >= 0:
        assert done.returncode == -signal.SIGKILL, done.stderr
        return {}
    assert done.returncode == 0, done.stderr
    curves: dict[str, list[list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return curves


@pytest.mark.parametrize("how", nightly_but(["local"], ["published", "local"]))
def test_points_of_earlier_attempts_are_shown_once_each(tmp_path: Path, how: str) -> None:
    """On fresh hosts they come out of the store, on the same one partly from its disk; after a second death as well."""
    hosts = [tmp_path / f"host{n if how == 'published' else 0}" for n in range(3)]
    assert attempt(hosts[0], 12, how) == {}
    assert attempt(hosts[1], 25, how) == {}
    shown = attempt(hosts[2], -1, how)
    assert shown["loss"] == [[n, n] for n in range(40)]
    assert shown["late"] == [[n, n] for n in range(20, 40)]

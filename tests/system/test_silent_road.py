"""The road of every announcement: a script's standard error, the journal, `qcity show`, and the tracker's tags."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scripted_run import environment, events, head_of

from qcity_nb.sidecar.drain import CHANGES_TAG

SCRIPT = """
import sys
import qcity_nb as qcity

city = qcity.up(run="train", store=sys.argv[1], tracking=sys.argv[2])
for n in city.loop(range(4), {}, every=1):
    if n == 2:
        city.session.announce("notebook", "lr = 0.1 → 0.01")
    city.log(loss=1 / (n + 1))
city.finish()
"""


def test_what_is_announced_is_where_people_look(tmp_path: Path) -> None:
    store, tracking = tmp_path / "store", f"jsonl://{tmp_path / 'metrics'}"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    env = environment()
    ended = subprocess.run(
        [sys.executable, script, store, tracking], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert "qcity: lr = 0.1 → 0.01\n" in ended.stderr
    head = head_of(store)
    (event,) = [each for each in events(store) if each.kind == "changed"]
    assert event.data["message"] == "lr = 0.1 → 0.01"
    shown = subprocess.run(
        [sys.executable, "-m", "qcity_nb.cli", "show", head.run, "--store", store],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "lr = 0.1 → 0.01" in shown.stdout, shown.stdout + shown.stderr
    noted = [
        json.loads(line) for file in (tmp_path / "metrics").rglob("*.jsonl") for line in file.read_text().splitlines()
    ]
    tags = {line["tag"]: line["value"] for line in noted if "tag" in line}
    assert tags[CHANGES_TAG] == "attempt 1, step 2: lr = 0.1 → 0.01", noted

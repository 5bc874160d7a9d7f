"""`qcity.up()` on the embedded default, warm: wall time of the call, in a process that has imported nothing else.

Warm: the project has its `.qcity` and an unfinished run with a checkpoint, which the call resumes. What returns is
a city whose lease is held and whose checkpoint is here. Its peer cannot do all of that; it is what the same notebook
would do by hand: import dagshub, mlflow and dvc.api, point MLflow at the same kind of SQLite file, start a run.
`dagshub.init` itself asks a server on the network and is left out, in the peer's favour.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import measure
from measure import Budget, Report, interleave, pairwise, python, spread

BUDGET_S = 0.5

OURS = """
import time
began = time.perf_counter()
import qcity_nb as qcity
imported = time.perf_counter()
city = qcity.up(run="bench")
upped = time.perf_counter()
print("took", imported - began, upped - imported, city.session.sidecar.look(now=True).pid)
for i in city.loop(range(3), {"x": [0]}, every=1):
    city.log(loss=i)
"""
THEIRS = """
import time
began = time.perf_counter()
{dagshub}
import dvc.api
import mlflow
mlflow.set_tracking_uri("sqlite:///{file}")
mlflow.start_run()
print("took", 0.0, time.perf_counter() - began, 0)
"""


def is_gone(pid: int) -> bool:
    """Has a process that is not our child ended (a zombie has)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def took(out: str) -> tuple[float, float, int]:
    """What a script printed: seconds of the import, seconds of the call, its sidecar."""
    line = next(line for line in out.splitlines() if line.startswith("took "))
    imported, upped, pid = line.split()[1:]
    return float(imported), float(upped), int(pid)


class Project:
    """A project in which `up()` is called again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.import_s: list[float] = []
        (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\n')

    def up(self) -> float:
        """Seconds of one call; the next one does not begin before this one's sidecar has released the run."""
        import_s, up_s, sidecar = took(python(OURS, cwd=self.folder).out)
        self.import_s.append(import_s)
        until = time.monotonic() + 60
        while not is_gone(sidecar):
            assert time.monotonic() < until, "the sidecar does not end"
            time.sleep(0.02)
        return up_s


def by_hand(folder: Path) -> float:
    """Seconds of the peer's bring-up."""
    has_dagshub = measure.is_installed("dagshub")
    code = THEIRS.format(dagshub="import dagshub" if has_dagshub else "", file=folder / "peer.db")
    return took(python(code, cwd=folder).out)[1]


def measured(quick: bool) -> Report:
    """Calls in turn, each in a fresh process."""
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name:
        folder = Path(name)
        project = Project(folder)
        cold_s = project.up()
        if not quick:
            by_hand(folder)  # it makes its database, as ours was made by the cold call's sidecar
        contestants = {"up": project.up, "up again": project.up, "by hand": lambda: by_hand(folder)}
        samples = interleave(contestants, rounds=1 if quick else 11, warm=0 if quick else 1)
    up = spread(samples["up"])
    peer = "import dagshub, mlflow, dvc.api; SQLite; start_run"
    if not measure.is_installed("dagshub"):
        peer = "import mlflow, dvc.api; SQLite; start_run (dagshub not installed)"
    rows = [
        ("`qcity.up()`, warm", up.text(scale=1000, digits=0), ""),
        (
            "the same again (noise floor)",
            spread(samples["up again"]).text(scale=1000, digits=0),
            pairwise(samples["up again"], samples["up"]).text(unit="x"),
        ),
        (
            peer,
            spread(samples["by hand"]).text(scale=1000, digits=0),
            pairwise(samples["by hand"], samples["up"]).text(digits=1, unit="x"),
        ),
    ]
    return Report(
        name="up",
        title="`qcity.up()`, warm",
        columns=("what", "wall ms", "beside `qcity.up()`"),
        rows=rows,
        budgets=[Budget(what="qcity.up() warm", limit=BUDGET_S, measured=up.median, unit="s")],
        notes=[
            f"The import before it: {spread(project.import_s).text(scale=1000, digits=0, unit='ms')}. The very first "
            f"call in a new project: {cold_s * 1000:.0f} ms. `dagshub.init` itself needs a network: the peer is what "
            "surrounds it."
        ],
        numbers={"up_s": up.median, "cold_s": cold_s, "peer_s": spread(samples["by hand"]).median},
    )


if __name__ == "__main__":
    measure.command_line(measured)

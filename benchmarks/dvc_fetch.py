"""Fetching 5,000 small DVC-tracked files from a directory remote: `city.data[...]` beside `dvc pull`.

Both in a fresh process, from nothing: no file, no cache. `city.data` checks every md5 on the way, as `dvc pull` does.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import measure
from measure import Budget, Report, interleave, pairwise, python, run, spread

BUDGET = 0.4
SIZE = 4096
OURS = "from pathlib import Path; from qcity_nb.data import Data; Data(Path('.'))['files']"
DVC = (sys.executable, "-m", "dvc")


def prepare(folder: Path, count: int) -> None:
    """A DVC project whose remote, a directory, has the files."""
    chance = random.Random(7)
    project = folder / "project"
    (project / "files").mkdir(parents=True)
    for n in range(count):
        (project / "files" / f"{n:05d}.bin").write_bytes(chance.randbytes(SIZE))
    (project / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\n')
    for arguments in (
        ("init", "--no-scm", "--quiet"),
        ("config", "core.analytics", "false"),
        ("remote", "add", "--quiet", "--default", "here", str(folder / "remote")),
        ("add", "--quiet", "files"),
        ("push", "--quiet"),
    ):
        run([*DVC, *arguments], cwd=project)


def empty(project: Path) -> None:
    """As after a clone: neither files nor cache."""
    for name in ("files", ".dvc/cache", ".dvc/tmp", ".qcity"):
        shutil.rmtree(project / name, ignore_errors=True)


def fetched(project: Path, count: int, *, ours: bool) -> float:
    """Wall seconds of one fetch."""
    empty(project)
    used = python(OURS, cwd=project) if ours else run([*DVC, "pull", "--quiet"], cwd=project)
    here = sum(1 for _ in (project / "files").iterdir())
    assert here == count, f"{here} of {count} files came"
    return used.wall_s


def measured(quick: bool) -> Report:
    """Fetches in turn."""
    count = 200 if quick else 5000
    if not measure.is_installed("dvc"):
        raise SystemExit('dvc is not installed: pip install -e ".[bench]"')
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name:
        prepare(Path(name), count)
        project = Path(name) / "project"
        contestants = {
            "ours": lambda: fetched(project, count, ours=True),
            "again": lambda: fetched(project, count, ours=True),
            "dvc": lambda: fetched(project, count, ours=False),
        }
        samples = interleave(contestants, rounds=1 if quick else 5, warm=0 if quick else 1)
    ratio = pairwise(samples["ours"], samples["dvc"])
    titles = {"ours": "`city.data[...]`", "again": "the same again (noise floor)", "dvc": "`dvc pull`"}
    rows = [
        (title, spread(samples[key]).text(unit="s"), pairwise(samples[key], samples["dvc"]).text(unit="x"))
        for key, title in titles.items()
    ]
    what = f"fetch of {count:,} small files, beside dvc pull"
    return Report(
        name="dvc_fetch",
        title=f"DVC fetch of {count:,} files of {SIZE // 1024} KiB",
        columns=("what", "wall", "beside `dvc pull`"),
        rows=rows,
        budgets=[Budget(what=what, limit=BUDGET, measured=ratio.median, unit="x")],
        notes=["Whole processes, imports included; nothing was there before, neither files nor a cache."],
        numbers={"ours_s": spread(samples["ours"]).median, "ratio": ratio.median},
    )


if __name__ == "__main__":
    measure.command_line(measured)

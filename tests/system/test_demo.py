"""`qcity demo` shows what it says, and notices when it is not so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from huggingface_hub import HfApi

from qcity_nb.testing.emulators.hub.server import HubServer

pytestmark = [pytest.mark.kill, pytest.mark.kernel, pytest.mark.timeout(300)]


def demo(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "qcity_nb.cli", "demo", *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_three_deaths_change_nothing(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Equal: same weights, same metrics." in done.stdout
    assert "kernel killed, process group killed, killed while saving" in done.stdout
    folder = tmp_path / ".qcity" / "demo" / "1"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "killed.ipynb").is_file()


@pytest.mark.nightly  # test_hf_jobs_run.py kills jobs in a third of the time
def test_three_killed_jobs_change_nothing(tmp_path: Path) -> None:
    """Uploads and commits take a while here, so that a kill in the middle of one is that, and not just after it."""
    with HubServer(tmp_path / "hub", end_jobs=True) as server:
        server.faults.set("upload-slow", 1_500_000)
        server.faults.set("commit-slow", 0.05)
        environ = {"HF_ENDPOINT": server.url, "HF_TOKEN": "any-token"}
        done = demo(tmp_path, "--store", "hf://user/demo", "--on", "hf-jobs", **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Equal: same weights, same metrics." in done.stdout
        for what in ("an upload", "a commit", "a save"):
            assert f"killed during {what}" in done.stdout
        request = Request(f"{server.url}/api/jobs/user", headers={"Authorization": "Bearer any-token"})
        with urlopen(request, timeout=10) as reply:
            jobs = json.load(reply)
        assert len(jobs) == 4, "two keepers launch no job twice"
        assert sorted(job["status"]["stage"] for job in jobs) == ["COMPLETED", "ERROR", "ERROR", "ERROR"]
        [run] = {job["labels"]["qcity-run"] for job in jobs}
        api = HfApi(endpoint=server.url, token="any-token")
        card = Path(api.hf_hub_download("user/demo", "README.md", revision=f"run/{run}", local_dir=tmp_path / "card"))
        assert "![loss over steps](loss.svg)" in card.read_text(encoding="utf-8")
        assert "| state | succeeded |" in card.read_text(encoding="utf-8")


def test_jobs_of_the_real_service_are_not_killed(tmp_path: Path) -> None:
    for arguments in (("--on", "hf-jobs"), ("--store", "hf://user/demo", "--on", "hf-jobs"), ("--on", "moon")):
        done = demo(tmp_path, *arguments, HF_ENDPOINT="https://huggingface.co")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.nightly  # test_kill_points.py has the same faults with a smaller run
@pytest.mark.parametrize(
    ("fault", "line"), [("generators", "weights       DIFFERENT"), ("rows", "metrics       DIFFERENT")]
)
def test_a_planted_fault_is_noticed(tmp_path: Path, fault: str, line: str) -> None:
    done = demo(tmp_path, "--plant", fault)
    assert done.returncode == 1, done.stdout + done.stderr
    assert line in done.stdout
    assert "NOT EQUAL" in done.stdout

"""Publish and restore through the Hub's client, beside `upload_folder` and `snapshot_download` of the same state.

1 GB of random float32 in 200 arrays. Ours: a checkpoint of the local tier published by the sidecar's publisher, then
restored on a "fresh host", verified and into its local tier. The peer, twice: one safetensors file, and a file for
each array. Then 5% of the arrays change, and the whole is sent again. Plain LFS over loopback, to the Hub emulator in
a process of its own: its disk and its sha256 are in every figure. Bytes are those of the loopback device.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_TOKEN"] = "bench"

import measure
import numpy as np
from huggingface_hub import HfApi
from measure import Budget, Report, spread

from qcity_nb.checkpoint.encode import encode_state
from qcity_nb.checkpoint.state.capture import capture
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import LoopRecord, Manifest
from qcity_nb.records import Head, Holder
from qcity_nb.run import lease
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.sidecar.publish import Publisher
from qcity_nb.sidecar.restore import restore
from qcity_nb.stores import open_store

ARRAYS = 200
CHANGED = ARRAYS // 20
GB = 10**9
FIGURES = ("publish_s", "publish_bytes", "again_s", "again_bytes", "restore_s", "restore_bytes")


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The emulator, in a process of its own."""
    command = [sys.executable, "-m", "qcity_nb.cli", "hub", "serve", "--any-token", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if match := re.search(r"HF_ENDPOINT=(\S+)", line):
                    yield match[1]
                    break
        finally:
            process.terminate()


def loopback_bytes() -> int:
    """What has gone over the loopback device so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[0])
    raise RuntimeError("no loopback device")


def timed(call: Callable[[], Any]) -> tuple[float, int]:
    """Seconds and bytes."""
    before, began = loopback_bytes(), time.perf_counter()
    call()
    return time.perf_counter() - began, loopback_bytes() - before


class State:
    """The arrays, and what changes in them."""

    def __init__(self, size: int, seed: int) -> None:
        self.dice = np.random.default_rng(seed)
        each = size // ARRAYS // 4
        self.arrays = {f"w{n:03d}": self.dice.standard_normal(each, dtype=np.float32) for n in range(ARRAYS)}

    def change(self) -> list[str]:
        names = [f"w{n:03d}" for n in self.dice.choice(ARRAYS, CHANGED, replace=False)]
        for name in names:
            self.dice.standard_normal(out=self.arrays[name], dtype=np.float32)
        return names


def ours(url: str, folder: Path, state: State, turn: int) -> dict[str, float]:
    """A run in a repository of its own."""
    store = open_store(f"hf://user/ours-{turn}?endpoint={url}")
    lease.create(store, Head(run="r", key="k", project="p", notebook="n.ipynb"))
    held = lease.acquire(store, "r", Holder(attempt="a", host="local", ttl_s=600))
    tier = LocalTier(folder / "1", term=1)
    publisher = Publisher(held, Mailbox(folder / "mailbox").open(), tier, published=None)

    def save(seq: int) -> Manifest:
        encoded, content = encode_state(capture(state.arrays))
        loops = (LoopRecord(key="l", done=seq, count=seq, state=encoded, generators=encoded),)
        return tier.save(Manifest(run="r", term=1, seq=seq, step=seq, loops=loops), content, b"")

    manifest = save(1)
    first = timed(lambda: publisher.publish(manifest))
    state.change()
    changed = save(2)
    again = timed(lambda: publisher.publish(changed))
    head = publisher.publish(None, release=True)
    fresh = folder / "fresh"
    fresh.mkdir()
    back = LocalTier(fresh / "2", term=2)
    restored = timed(lambda: restore(store, head, fresh, term=2, tier=back))
    newest = back.newest()
    if newest is None or set(newest.objects) != set(changed.objects):
        raise RuntimeError("what came back is not what was sent")
    return dict(zip(FIGURES, (*first, *again, *restored), strict=True))


def theirs(url: str, folder: Path, state: State, turn: int, *, whole: bool) -> dict[str, float]:
    """The same state as one safetensors file, or as a file for each array."""
    from safetensors.numpy import save_file

    api = HfApi(endpoint=url)
    repo = f"user/{'one' if whole else 'many'}-{turn}"
    api.create_repo(repo)
    target = folder / "there"
    target.mkdir()

    def write(names: list[str]) -> None:
        if whole:
            save_file(state.arrays, target / "model.safetensors")
        else:
            for name in names:
                save_file({name: state.arrays[name]}, target / f"{name}.safetensors")

    write(list(state.arrays))
    first = timed(lambda: api.upload_folder(repo_id=repo, folder_path=target))
    write(state.change())
    again = timed(lambda: api.upload_folder(repo_id=repo, folder_path=target))
    restored = timed(lambda: api.snapshot_download(repo, local_dir=folder / "back"))
    return dict(zip(FIGURES, (*first, *again, *restored), strict=True))


def measured(quick: bool) -> Report:
    """Contestants in turn, each round with a state of its own."""
    size, rounds = (4_000_000, 1) if quick else (GB, min(3, int(os.environ.get("BENCH_ROUNDS") or 3)))
    contestants: dict[str, Callable[[str, Path, State, int], dict[str, float]]] = {
        "qcity_nb": ours,
        "`upload_folder`, one file": lambda *args: theirs(*args, whole=True),
        "`upload_folder`, 200 files": lambda *args: theirs(*args, whole=False),
    }
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for turn in range(rounds if quick else rounds + 1):
        for name, contestant in contestants.items():
            folder = Path(tempfile.mkdtemp(prefix="qcity-bench-", dir=Path.cwd()))
            try:
                with server(folder / "hub") as url:
                    figures = contestant(url, folder, State(size, turn), turn)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if quick or turn:  # the first round warms up
                samples[name].append(figures)

    def cell(name: str, figure: str) -> str:
        values = spread([sample[figure] for sample in samples[name]])
        if figure.endswith("bytes"):
            return f"{values.median / 1e6:,.0f}"
        return values.text(digits=2)

    rows = [(name, *(cell(name, figure) for figure in FIGURES)) for name in contestants]
    mine = {figure: spread([sample[figure] for sample in samples["qcity_nb"]]).median for figure in FIGURES}
    changed = size * CHANGED / ARRAYS
    return Report(
        name="hub",
        title="The Hub: publish and restore 1 GB, then 5% changed",
        columns=("what", "publish s", "MB sent", "again s", "MB sent", "restore s", "MB"),
        rows=rows,
        budgets=[
            Budget(
                what="bytes sent for 5% changed",
                limit=1.1,
                measured=mine["again_bytes"] / changed,
                unit="x the change",
                why="a state this small is mostly protocol" if quick else "",
            )
        ],
        notes=[
            "Plain LFS over loopback, to the Hub emulator in a process of its own; its writing and hashing is in every "
            "figure. Ours hashes with BLAKE3 and sha256, verifies what it restores and puts it into the local tier; "
            "`snapshot_download` writes files."
        ],
        numbers=mine,
    )


if __name__ == "__main__":
    measure.command_line(measured)

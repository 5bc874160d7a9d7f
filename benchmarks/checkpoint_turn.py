"""One engine's turn at one workload, in a process of its own: `checkpoint.py` starts it and reads what it measured.

A turn is a save that is not counted and then some that are, each beside a copy of the same arrays and beside the raw
disk at that moment; then a restore with a new engine object, the page cache dropped for everybody, checked by a digest.
With `prove` there is one more save, and the program changes the state as soon as the call has returned: an engine that
has not taken what it needs by then restores something else, and is refused.
For a training loop it is stretches of the same loop with and without saves.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from checkpoint_engines import ENGINES, Engine
from checkpoint_states import State, Trained, make

BLOCK = 8 << 20
WINDOW_S = 10.0


def children() -> list[int]:
    """Live processes that this one has started, and theirs."""
    pids, todo = [], [os.getpid()]
    while todo:
        for file in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                new = [int(pid) for pid in file.read_text().split()]
                pids += new
                todo += new
    return pids


def cpu_s() -> float:
    """CPU seconds of this process, its threads and its children, the living ones too."""
    used = os.times()
    total = time.process_time() + used.children_user + used.children_system
    for pid in children():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def sent_bytes() -> int:
    """Bytes that this process and its children have caused to be sent to a disk, by the kernel's account."""
    total = 0
    for pid in [os.getpid(), *children()]:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/io").read_text()
            total += int(text.partition("write_bytes:")[2].split()[0])
    return total


def memory(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) * 1024


class Disk:
    """The raw disk: one thread, 8 MB at a time, past the page cache where the file system allows it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.buffer = mmap.mmap(-1, BLOCK)  # page-aligned, as O_DIRECT wants it
        self.buffer.write(os.urandom(BLOCK))

    def open(self, flags: int) -> int:
        try:
            return os.open(self.file, flags | os.O_DIRECT, 0o600)
        except OSError:
            return os.open(self.file, flags, 0o600)

    def write(self, size: int) -> float:
        """Seconds until so many bytes (up to a block more) are in a fresh file, safe."""
        self.file.unlink(missing_ok=True)
        size = -(-size // 4096) * 4096
        began = time.perf_counter()
        file = self.open(os.O_CREAT | os.O_WRONLY)
        try:
            os.posix_fallocate(file, 0, size)
            for offset in range(0, size, BLOCK):
                os.pwrite(file, memoryview(self.buffer)[: min(BLOCK, size - offset)], offset)
            os.fdatasync(file)
        finally:
            os.close(file)
        return time.perf_counter() - began

    def read(self) -> float:
        """Seconds to read the file."""
        drop(self.file)
        began = time.perf_counter()
        file = self.open(os.O_RDONLY)
        offset = 0
        try:
            while got := os.preadv(file, [self.buffer], offset):
                offset += got
        finally:
            os.close(file)
        return time.perf_counter() - began

    def remove(self) -> None:
        """Give the space back."""
        self.file.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Take a file, or all below a folder, out of the page cache."""
    for each in path.rglob("*") if path.is_dir() else [path]:
        if each.is_file():
            file = os.open(each, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


class Copy:
    """The same arrays copied by one thread into warm buffers: what a stall is measured by."""

    def __init__(self, state: State) -> None:
        self.pairs = [(torch.from_numpy(a), torch.from_numpy(a.copy())) for a in state.arrays().values()]

    def seconds(self) -> float:
        """The median of three."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        took = []
        for _ in range(3):
            began = time.perf_counter()
            for source, target in self.pairs:
                target.copy_(source)
            took.append(time.perf_counter() - began)
        torch.set_num_threads(threads)
        return sorted(took)[1]


def until_durable(engine: Engine) -> float:
    """The moment at which the save was safe."""
    engine.wait()
    return time.perf_counter()


def one_save(engine: Engine, state: State, pool: ThreadPoolExecutor, *, changing: bool) -> dict[str, float]:
    """One save: stall, time to durable, CPU, bytes; the state changes at once after it where that is asked for."""
    cpu, sent = cpu_s(), sent_bytes()
    began = time.perf_counter()
    engine.save(state)
    stall_s = time.perf_counter() - began
    durable = pool.submit(until_durable, engine)
    wait_s, own_s = state.after_save()
    if changing:
        state.change()
    durable_s = durable.result() - began
    written = sent_bytes() - sent
    if not written and engine.new_bytes is not None:  # a disk that the kernel keeps no account of
        written = engine.new_bytes
    return {
        "stall_s": stall_s + wait_s,
        "durable_s": durable_s,
        "cpu_s": cpu_s() - cpu - own_s,
        "written": float(written),
    }


def saved(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A turn of saves and a restore."""
    _, kind = ENGINES[spec["engine"]]
    state = make(
        spec["kind"], spec["size"], spec["share"], is_lazy=spec["engine"] == "ours-lazy", records=spec["records"]
    )
    store = folder / "store"
    store.mkdir()
    disk, copy = Disk(folder / "raw"), Copy(state)
    engine = kind(store)
    copy.seconds()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = memory("VmRSS")
    samples = []
    digest = 0
    with ThreadPoolExecutor(1) as pool:
        last = spec["saves"] + spec["prove"]
        for k in range(1 + last):
            changed = state.change()
            if k == last:
                digest = state.digest()
            raw_s = disk.write(changed)
            disk.remove()
            copy_s = copy.seconds()
            times = one_save(engine, state, pool, changing=k > spec["saves"])
            engine.tidy()
            if 0 < k <= spec["saves"]:
                times |= {"raw_s": raw_s, "copy_s": copy_s, "changed": float(changed)}
                samples.append(times)
    peak = memory("VmHWM") - before
    engine.close()
    state.wipe()
    disk.write(state.size_bytes)
    raw_s = disk.read()
    disk.remove()
    drop(store)
    engine = kind(store)
    began = time.perf_counter()
    engine.restore(state)
    restore_s = time.perf_counter() - began
    if state.digest() != digest:
        raise SystemExit(f"{spec['engine']} restored something else than it saved")
    engine.close()
    return {
        "samples": samples,
        "peak": peak,
        "size": state.size_bytes,
        "restore_s": restore_s,
        "raw_read_s": raw_s,
    }


def stretch(state: Trained, seconds: float, engine: Engine | None, pool: ThreadPoolExecutor) -> dict[str, float]:
    """The loop for so many seconds, with a save at its begin if there is an engine.

    With a save, the stretch lasts until the save is durable, so a slow engine does not shift its cost to the next one.
    """
    count, stall_s = 0, 0.0
    began = time.perf_counter()
    durable = None
    if engine is not None:
        engine.save(state)
        stall_s = time.perf_counter() - began
        durable = pool.submit(until_durable, engine)
    while True:
        wait_s = state.iterate()
        count += 1
        if count == 1 and engine is not None:
            stall_s += wait_s
        now = time.perf_counter()
        if now - began >= seconds and (durable is None or durable.done()):
            break
    return {
        "rate": count / (now - began),
        "stall_s": stall_s,
        "durable_s": durable.result() - began if durable is not None else 0.0,
    }


def trained(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A turn of stretches, in turning order: without saves, with one, without again."""
    state = make("train", spec["size"], 1.0, is_lazy=True)
    assert isinstance(state, Trained)
    store = folder / "store"
    store.mkdir()
    engine = ENGINES[spec["engine"]][1](store)
    stretches: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as pool:
        stretch(state, spec["window_s"] / 4, engine, pool)
        stretch(state, spec["window_s"] / 4, None, pool)
        names = ["none", "saves", "again"]
        shift = spec["turn"] % 3
        for name in names[shift:] + names[:shift]:
            stretches[name] = stretch(state, spec["window_s"], engine if name == "saves" else None, pool)
            engine.tidy()
        copy_s = Copy(state).seconds()
    engine.close()
    return {**stretches, "size": state.size_bytes, "copy_s": copy_s}


def main() -> None:
    """Read the turn's description, write its numbers."""
    spec = json.loads(sys.argv[1])
    folder = Path(spec["folder"])
    work = trained if spec["kind"] == "train" else saved
    Path(spec["out"]).write_text(json.dumps(work(spec, folder)), encoding="utf-8")


if __name__ == "__main__":
    main()

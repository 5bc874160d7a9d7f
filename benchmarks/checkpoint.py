"""Checkpoint engines side by side: stall, time to durable, CPU, bytes, memory, restore, and what a training loop loses.

    python benchmarks/checkpoint.py            # about two hours; needs 15 GB of disk and 24 GB of memory
    python benchmarks/checkpoint.py --quick    # a smoke of a minute
    python benchmarks/checkpoint.py --only tensors-1g,few-1g --engines ours-blocking,ours-lazy,safetensors --rounds 5

Every turn of an engine is a process of its own (`checkpoint_turn.py`), so that no engine leaves memory or threads to
the next. A stall is counted in copies of the same arrays by one thread, a time on the disk in the raw disk's time for
the same bytes, both measured beside each save: what the machine does at that moment is in both.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
from measure import Budget, Report, pairwise, spread

HERE = Path(__file__).resolve().parent
GB = 10**9
STALL, LAZY, FEW_STALL, FEW_LAZY = 1.05, 0.05, 0.65, 0.1
BYTES, CPU, DURABLE, RESTORE, SPEED = 1.01, 0.25, 0.9, 0.9, 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is saved; with kind `train` a loop that saves each ten seconds."""

    title: str
    kind: str
    size: int
    share: float = 1.0
    saves: int = 2


WORKLOADS = {
    "tensors-1g": Workload(title="1 GB in 200 tensors, all changed", kind="tensors", size=GB),
    "tensors-3g": Workload(title="3 GB in 200 tensors, all changed", kind="tensors", size=3 * GB, saves=1),
    "few-1g": Workload(title="1 GB in 200 tensors, 5% changed", kind="tensors", size=GB, share=0.05),
    "mixed": Workload(title="0.39 GB of arrays and 200,000 dicts, few changed", kind="mixed", size=390 * 10**6),
    "train-250m": Workload(title="training loop, 0.25 GB saved each 10 s", kind="train", size=GB // 4),
    "train-1g": Workload(title="training loop, 1 GB saved each 10 s", kind="train", size=GB),
}
ENGINES = (
    "ours-blocking",
    "ours-again",
    "ours-lazy",
    "torch.save",
    "safetensors",
    "dcp-async",
    "orbax-async",
    "orbax-plain",
    "joblib",
    "pickle5",
)
SMOKE: dict[str, tuple[str, ...]] = {
    "tensors-1g": tuple(name for name in ENGINES if name not in ("ours-again", "orbax-plain")),
    "few-1g": ("ours-blocking", "ours-lazy"),
    "mixed": ("ours-blocking",),
    "train-250m": ("ours-lazy",),
}
SMALLER = 100
COLUMNS = (
    "engine",
    "stall, s",
    "x copy",
    "durable, s",
    "x raw disk",
    "CPU-s/GB",
    "written / changed",
    "peak memory over the state",
    "restore, s",
    "x raw read",
    "loop's speed beside no saves",
)
PEERS = ("torch", "safetensors", "orbax-checkpoint", "jax", "joblib")


class Bench:
    """All turns of a run, and what they gave."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.quick: bool = options.quick
        self.only: list[str] = options.only or list(SMOKE if options.quick else WORKLOADS)
        self.asked: list[str] = options.engines or list(ENGINES)
        self.few: bool = options.quick and not options.engines
        self.rounds: int = 1 if options.quick else options.rounds
        self.titles: dict[str, str] = {}
        self.not_saved: dict[str, str] = {}
        self.failed: dict[tuple[str, str], str] = {}
        self.turns: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def look(self) -> None:
        """Which engines can run here? Asked in a process, since torch and jax are not this one's business."""
        code = (
            f"import sys, json; sys.path.insert(0, {str(HERE)!r}); import checkpoint_engines as e; "
            "print(json.dumps({k: [v[0], e.missing(k)] for k, v in e.ENGINES.items()}))"
        )
        if not measure.is_installed("torch"):
            raise SystemExit('torch is not installed: pip install -e ".[bench]"')
        for name, (title, why) in json.loads(measure.python(code).out.splitlines()[-1]).items():
            self.titles[name] = title
            if why:
                self.not_saved[name] = why

    def engines(self, workload: str) -> list[str]:
        """Those that take part."""
        lazy_too = WORKLOADS[workload].kind != "mixed"  # no optimizer there, so that nothing can be lazy
        if self.few and workload in SMOKE:
            return [name for name in SMOKE[workload] if name not in self.not_saved]
        return [name for name in self.asked if name not in self.not_saved and (lazy_too or name != "ours-lazy")]

    def turn(self, workload: str, engine: str, number: int, *, counts: bool) -> dict[str, Any]:
        """One turn in a process and a folder of its own, both gone afterwards; what does not count is a proof too."""
        what = WORKLOADS[workload]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        spec = {
            "engine": engine,
            "kind": what.kind,
            "size": what.size // SMALLER if self.quick else what.size,
            "share": what.share,
            "saves": 1 if self.quick else what.saves,
            "records": 200_000 // SMALLER if self.quick else 200_000,
            "window_s": 0.5 if self.quick else 10.0,
            "turn": number,
            "prove": self.quick or not counts,
            "folder": str(folder),
            "out": str(folder / "out.json"),
        }
        cores = str(len(os.sched_getaffinity(0)))
        command = [sys.executable, str(HERE / "checkpoint_turn.py"), json.dumps(spec)]
        try:
            measure.run(command, environ={"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores})
            return json.loads((folder / "out.json").read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(folder)

    def run(self) -> None:
        """All rounds of all workloads; in a loop's first round, too, each process has warmed up before it counts."""
        began, plan = time.monotonic(), []
        for workload in self.only:
            warm = 0 if self.quick or WORKLOADS[workload].kind == "train" else 1
            names = self.engines(workload)
            for number in range(warm + self.rounds if names else 0):
                shift = number % len(names)
                plan += [(workload, name, number, number >= warm) for name in names[shift:] + names[:shift]]
        for k, (workload, engine, number, counts) in enumerate(plan):
            if (workload, engine) in self.failed:
                continue
            at = f"[{k + 1}/{len(plan)}, {time.monotonic() - began:.0f} s] {workload}, round {number}, {engine}"
            try:
                result = self.turn(workload, engine, number, counts=counts)
            except RuntimeError as error:
                self.failed[workload, engine] = str(error).splitlines()[-1]
                print(f"{at}: failed: {error}", file=sys.stderr, flush=True)
                continue
            last = result["saves"] if "saves" in result else result["samples"][-1]
            summary = f"stall {last['stall_s']:.3f} s, durable {last['durable_s']:.2f} s"
            print(f"{at}: {summary}{'' if counts else ' (not counted)'}", file=sys.stderr, flush=True)
            if counts:
                self.turns.setdefault((workload, engine), []).append(result)

    def samples(self, workload: str, engine: str) -> list[dict[str, float]]:
        """All counted saves."""
        return [sample for turn in self.turns.get((workload, engine), []) for sample in turn["samples"]]


def ratios(samples: Sequence[dict[str, float]], above: str, below: str) -> measure.Spread:
    """Of two things measured beside each other, save by save."""
    return pairwise([each[above] for each in samples], [each[below] for each in samples])


def saving_row(bench: Bench, workload: str, engine: str, numbers: dict[str, float]) -> tuple[str, ...]:
    """One engine at one workload of saves."""
    turns, samples = bench.turns[workload, engine], bench.samples(workload, engine)
    size = turns[0]["size"]
    stall = spread([each["stall_s"] for each in samples])
    durable = spread([each["durable_s"] for each in samples])
    cpu = spread([each["cpu_s"] / (size / GB) for each in samples])
    restore = spread([turn["restore_s"] for turn in turns])
    peak = spread([(size + turn["peak"]) / size for turn in turns])
    values = {
        "stall_s": stall,
        "stall_x": ratios(samples, "stall_s", "copy_s"),
        "durable_s": durable,
        "durable_x": ratios(samples, "durable_s", "raw_s"),
        "cpu_s_per_gb": cpu,
        "written_x": ratios(samples, "written", "changed"),
        "peak_x": peak,
        "restore_s": restore,
        "restore_x": spread([turn["restore_s"] / turn["raw_read_s"] for turn in turns]),
    }
    numbers |= {f"{workload}/{engine}/{name}": value.median for name, value in values.items()}
    digits = {"stall_s": 3, "written_x": 3}
    cells = [
        f"+{(value.median - 1) * size / GB:.2f} GB" if name == "peak_x" else value.text(digits=digits.get(name, 2))
        for name, value in values.items()
    ]
    return (bench.titles[engine], *cells, "")


def training_row(bench: Bench, workload: str, engine: str, numbers: dict[str, float]) -> tuple[str, ...]:
    """One engine in a training loop."""
    turns = bench.turns[workload, engine]
    stall = spread([turn["saves"]["stall_s"] for turn in turns])
    copies = spread([turn["saves"]["stall_s"] / turn["copy_s"] for turn in turns])
    durable = spread([turn["saves"]["durable_s"] for turn in turns])
    # The mean of the two stretches without saves: with the turning order they lie before, after and around the other.
    plain = [(turn["none"]["rate"] + turn["again"]["rate"]) / 2 for turn in turns]
    speed = pairwise([turn["saves"]["rate"] for turn in turns], plain)
    values = {"stall_s": stall, "stall_x": copies, "durable_s": durable, "speed_x": speed}
    numbers |= {f"{workload}/{engine}/{name}": value.median for name, value in values.items()}
    blank = ("",) * 6
    return (bench.titles[engine], stall.text(digits=4), copies.text(), durable.text(), *blank, speed.text(digits=3))


def floor_rows(bench: Bench, workload: str, numbers: dict[str, float]) -> list[tuple[str, ...]]:
    """The loop without saves beside itself, over all engines' turns."""
    turns = [turn for (name, _), turn_list in bench.turns.items() if name == workload for turn in turn_list]
    floor = pairwise([turn["again"]["rate"] for turn in turns], [turn["none"]["rate"] for turn in turns])
    numbers[f"{workload}/no saves/speed_x"] = floor.median
    numbers[f"{workload}/no saves/rate"] = spread([turn["none"]["rate"] for turn in turns]).median
    return [("no saves, beside no saves (noise floor)", *[""] * 9, floor.text(digits=3))]


def budgets(numbers: dict[str, float], only: Sequence[str]) -> list[Budget]:
    """Those of docs/design.md that this run measured."""
    budget_list: list[Budget] = []

    def add(what: str, key: str, limit: float, unit: str, *, to: Callable[[float], float] | None = None) -> None:
        if key in numbers:
            value = numbers[key] if to is None else to(numbers[key])
            at_least = limit in (DURABLE, RESTORE, SPEED)
            budget_list.append(Budget(what=what, limit=limit, measured=value, unit=unit, at_least=at_least))

    for name in only:
        what = WORKLOADS[name]
        blocking, lazy, size = f"{name}/ours-blocking", f"{name}/ours-lazy", f"{what.size / GB:g} GB"
        if what.kind == "train":
            for mode, key in (("lazy", lazy), ("blocking", blocking)):
                add(f"training speed, {size} each 10 s, {mode}", f"{key}/speed_x", SPEED, "x no saves")
        elif what.kind == "tensors" and what.share < 1:
            add("stall, 5% changed, hash proof", f"{blocking}/stall_x", FEW_STALL, "x copy")
            add("stall, 5% changed, hints (lazy)", f"{lazy}/stall_x", FEW_LAZY, "x copy")
            add("bytes written, 5% changed", f"{blocking}/written_x", BYTES, "x changed")
        elif what.kind == "tensors":
            add(f"stall, {size}, blocking", f"{blocking}/stall_x", STALL, "x copy")
            add(f"stall, {size}, lazy", f"{lazy}/stall_x", LAZY, "x copy")
            add(f"bytes written, {size}, all changed", f"{blocking}/written_x", BYTES, "x changed")
            add(f"CPU for a save, {size}", f"{blocking}/cpu_s_per_gb", CPU, "s/GB")
            add(f"durable, {size}", f"{blocking}/durable_x", DURABLE, "x raw disk speed", to=lambda x: 1 / x)
            add(f"restore, {size}", f"{blocking}/restore_x", RESTORE, "x raw read speed", to=lambda x: 1 / x)
    return budget_list


def report(bench: Bench) -> Report:
    """The table, workload by workload."""
    numbers: dict[str, float] = {}
    rows: list[tuple[str, ...]] = []
    for workload in bench.only:
        rows.append((f"**{WORKLOADS[workload].title}**", *[""] * (len(COLUMNS) - 1)))
        is_loop = WORKLOADS[workload].kind == "train"
        for engine in bench.asked:
            why = bench.not_saved.get(engine) or bench.failed.get((workload, engine))
            if (workload, engine) in bench.turns and not why:
                row = training_row if is_loop else saving_row
                rows.append(row(bench, workload, engine, numbers))
            elif why:
                rows.append((bench.titles[engine], why.replace("|", "/"), *[""] * (len(COLUMNS) - 2)))
            elif engine == "ours-lazy" and not bench.quick:
                rows.append((bench.titles[engine], "needs an optimizer in the state", *[""] * (len(COLUMNS) - 2)))
        if is_loop and any(name == workload for name, _ in bench.turns):
            rows += floor_rows(bench, workload, numbers)
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in PEERS if measure.is_installed(n))
    return Report(
        name="checkpoint",
        title="Checkpoint engines",
        columns=COLUMNS,
        rows=rows,
        budgets=budgets(numbers, bench.only),
        notes=[
            *([f"A smoke: everything {SMALLER} times smaller, few engines, numbers worth nothing."] * bench.quick),
            NOTE.format(rounds=bench.rounds, versions=versions),
        ],
        numbers=numbers,
    )


NOTE = (
    "{rounds} rounds counted; {versions}. Stall: until the call returns, and where the copy is lazy what the next step "
    "of the optimizer waits. Copy: the same arrays by one thread into warm buffers. Durable: until the files are "
    "fsynced. Raw disk: as many bytes as changed, 8 MB at a time with O_DIRECT by one thread into a fresh fallocated "
    "file, fdatasync; raw read: the whole state's bytes the same way; the page cache is dropped for everybody. "
    "CPU-s/GB: of the whole process, for a GB of state. Written: by the kernel's account of what the process sent to "
    "the disk. Restore is into the live objects, in the same process, with a new engine object, and checked; in the "
    "round that is not counted it is of a save after which the state changed at once. The state of the lazy mode is a "
    "model with AdamW, of about the same size and number of tensors. joblib and pickle get numpy views; safetensors, "
    "DCP and orbax get the dicts pickled as one array. A loop that saves is measured for 10 s or, if that is longer, "
    "until the save is durable."
)


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A comma-separated list of known names."""

    def read(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := set(asked) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(known)}")
        return asked

    return read


def main() -> int:
    """Run what is asked for; the table on standard output, progress on standard error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke: tiny sizes, numbers worth nothing")
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS") or 3), help="rounds counted")
    parser.add_argument("--only", type=names(list(WORKLOADS)), metavar="WORKLOAD,…", help=", ".join(WORKLOADS))
    parser.add_argument("--engines", type=names(ENGINES), metavar="ENGINE,…", help=", ".join(ENGINES))
    parser.add_argument("--dir", type=Path, default=Path(), help="on the disk to be measured; default: here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".qcity-bench-", dir=options.dir.resolve()) as folder:
        bench = Bench(Path(folder), options)
        bench.look()
        bench.run()
    done = report(bench)
    print(done.markdown())
    if options.json:
        options.json.write_text(json.dumps(asdict(done)), encoding="utf-8")
    return 1 if any(engine.startswith("ours") for _, engine in bench.failed) else 0


if __name__ == "__main__":
    sys.exit(main())

"""`city.log()`: what a call costs in the loop, how fast rows reach MLflow, how many a SIGKILL costs.

Peers: MLflow's own calls against the same kind of store, an SQLite file and a real `mlflow server`: `log_metric` one by
one, `log_metric(synchronous=False)`, `log_batch` of 1,000.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from measure import Budget, Report, python, spread

CALL_US, DRAIN_PER_S = 20.0, 3000.0

CALLS = """
import json, statistics, time
import qcity_nb as qcity
city = qcity.up(run="calls", fresh=True, tracking={uri!r})
n, clock = {n}, time.perf_counter_ns
took, empty = [], []
for i in city.loop(range(n // 1000), {{"x": [0]}}):
    for k in range(1000):
        a = clock()
        city.log(loss=0.5)
        took.append(clock() - a)
for i in range(100_000):
    a = clock()
    empty.append(clock() - a)
city.finish()
took.sort()
print(json.dumps([statistics.median(took) / 1e3, took[int(len(took) * 0.99)] / 1e3, statistics.mean(took) / 1e3,
                  statistics.median(empty) / 1e3]))
"""
DRAIN = """
import json, time
import qcity_nb as qcity
city = qcity.up(run="drain", fresh=True, tracking={uri!r})
def drained(seq):
    while city.session.sidecar.look(now=True).drained_seq < seq:
        time.sleep(0.01)
city.log(warm=0.0)
drained(city.checkpoint())
began = time.perf_counter()
for i in range({n}):
    city.log(step=i, loss=0.5)
seq = city.checkpoint()
drained(seq)
took = time.perf_counter() - began
city.finish()
print(json.dumps([took]))
"""
PEER = """
import json, statistics, time
import mlflow
from mlflow.entities import Metric
mlflow.set_tracking_uri({uri!r})
run = mlflow.start_run().info.run_id
clock = time.perf_counter_ns
mlflow.log_metric("warm", 0.0)
def timed(call, n):
    took = []
    began = clock()
    for i in range(n):
        a = clock()
        call(i)
        took.append(clock() - a)
    return statistics.median(took) / 1e3, began
one, began = timed(lambda i: mlflow.log_metric("one", 0.5, step=i), {one})
one_rate = {one} / ((clock() - began) / 1e9)
pending = []
call, began = timed(lambda i: pending.append(mlflow.log_metric("two", 0.5, step=i, synchronous=False)), {many})
for each in pending:
    each.wait()
async_rate = {many} / ((clock() - began) / 1e9)
client = mlflow.MlflowClient()
began = clock()
for start in range(0, {many}, 1000):
    rows = [Metric("three", 0.5, time.time_ns() // 10**6, i) for i in range(start, min(start + 1000, {many}))]
    client.log_batch(run, metrics=rows)
batch_rate = {many} / ((clock() - began) / 1e9)
print(json.dumps([one, one_rate, call, async_rate, batch_rate]))
"""
PREPARE = """
from pathlib import Path
from qcity_nb.tracking.database import prepare
prepare(Path("template.db"))
"""
KILLED = """
import os, signal
import qcity_nb as qcity
city = qcity.up(run="killed", tracking={uri!r})
for i in city.loop(range(20), {{"x": [0]}}, every=1):
    if i == 10 and {die}:
        pid_of_sidecar = city.session.sidecar.look(now=True).pid
        for pid in (pid_of_sidecar, os.getpid()):
            os.kill(pid, signal.SIGKILL)
    for k in range(100):
        city.log(loss=i + k / 100)
city.finish()
"""
PEER_KILLED = """
import os, signal, time
import mlflow
mlflow.set_tracking_uri({uri!r})
mlflow.start_run()
mlflow.log_metric("warm", 0.0)
for i in range(1000):
    mlflow.log_metric("loss", i / 100, step=i // 100{how})
os.kill(os.getpid(), signal.SIGKILL)
"""


def values(code: str, folder: Path, **fields: Any) -> list[float]:
    """The numbers that a script printed, as JSON."""
    out = python(code.format(**fields), cwd=folder).out
    # MLflow says where to look at the run after everything else.
    numbers: list[float] = json.loads(next(line for line in out.splitlines() if line.startswith("[")))
    return numbers


def rows_in(file: Path, key: str) -> int:
    """Rows of one metric in an MLflow SQLite file, read without MLflow."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        query = "select count(*), count(distinct value) from metrics where key = ?"  # each row has its own value
        rows, distinct = connection.execute(query, (key,)).fetchone()
    assert rows == distinct, f"{rows - distinct} rows are there twice"
    return int(rows)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real `mlflow server` over an SQLite file, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = measure.environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2):
                break
            assert process.poll() is None, "mlflow server does not start"
            assert time.monotonic() < until, "mlflow server does not answer"
            time.sleep(0.2)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def database(template: Path, file: Path) -> str:
    """The address of a new MLflow file: mlflow takes seconds to make one, which is not what is measured."""
    shutil.copyfile(template, file)
    return f"sqlite:///{file}"


def project(folder: Path) -> Path:
    """A directory that is a project."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[tool.qcity]\nproject = "bench"\n')
    return folder


def lost(folder: Path, template: Path) -> dict[str, int]:
    """Rows missing after a SIGKILL; that none is there twice is asserted."""
    file = folder / "ours.db"
    uri = database(template, file)
    # Kernel and sidecar die at the beginning of iteration 10: iterations 0 to 9, 1,000 rows, are covered.
    python(KILLED.format(uri=uri, die=True), cwd=folder, exit_code=-signal.SIGKILL)
    python(KILLED.format(uri=uri, die=False), cwd=folder)
    lost_rows = {"ours": 2000 - rows_in(file, "loss")}
    for name, how in (("sync", ""), ("async", ", synchronous=False")):
        peer = folder / f"{name}.db"
        python(PEER_KILLED.format(uri=database(template, peer), how=how), cwd=folder, exit_code=-signal.SIGKILL)
        lost_rows[name] = 1000 - rows_in(peer, "loss")
    return lost_rows


def measured(quick: bool) -> Report:
    """Calls, drains and kills; stores in turn in every round."""
    rounds, n = (1, 5_000) if quick else (3, 20_000)
    rounds = min(rounds, int(os.environ.get("BENCH_ROUNDS") or rounds))
    rate: dict[tuple[str, str], list[float]] = {}
    calls: list[list[float]] = []
    call: dict[str, list[float]] = {"one": [], "async": []}
    with tempfile.TemporaryDirectory(prefix="qcity-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        python(PREPARE, cwd=folder)
        template = folder / "template.db"
        stores = {"SQLite": database(template, folder / "peer.db")}
        if not quick:
            stores["`mlflow server`"] = stack.enter_context(server(project(folder / "server")))
        for turn in range(rounds):
            here = project(folder / str(turn))
            calls.append(values(CALLS, here, uri=database(template, here / "calls.db"), n=n))
            for store, uri in stores.items():
                ours = database(template, here / "ours.db") if store == "SQLite" else uri
                rate.setdefault((store, "ours"), []).append(n / 5 / values(DRAIN, here, uri=ours, n=n // 5)[0])
                single, one_rate, later, async_rate, batch = values(
                    PEER, here, uri=uri, one=10 if quick else 300, many=100 if quick else n // 5
                )
                call["one"].append(single)
                call["async"].append(later)
                for kind, value in (("one", one_rate), ("async", async_rate), ("batch", batch)):
                    rate.setdefault((store, kind), []).append(value)
        missing = {} if quick else lost(project(folder / "kill"), template)
    median, p99, mean, clock = (spread([each[k] for each in calls]) for k in range(4))

    def rate_texts(kind: str) -> tuple[str, ...]:
        return tuple(spread(rate[store, kind]).text(digits=0) if (store, kind) in rate else "" for store in STORES)

    def gone(kind: str, of: str) -> str:
        return f"{missing[kind]} of {of}" if missing else "(not in a smoke)"

    rows = [
        ("`city.log`", median.text(unit="µs"), *rate_texts("ours"), gone("ours", "2,000")),
        (
            "`mlflow.log_metric`",
            spread(call["one"]).text(digits=0, unit="µs"),
            *rate_texts("one"),
            gone("sync", "1,000"),
        ),
        (
            "`mlflow.log_metric(synchronous=False)`",
            spread(call["async"]).text(digits=0, unit="µs"),
            *rate_texts("async"),
            gone("async", "1,000"),
        ),
        ("`MlflowClient.log_batch`, 1,000 each", "", *rate_texts("batch"), ""),
    ]
    drained = spread(rate["SQLite", "ours"]).median
    budgets = [
        Budget(what="city.log, median call", limit=CALL_US, measured=median.median, unit="µs"),
        Budget(
            what="drained into SQLite, end to end", limit=DRAIN_PER_S, measured=drained, unit="rows/s", at_least=True
        ),
    ]
    if missing:
        served = spread(rate["`mlflow server`", "ours"]).median
        what = "drained into a server, end to end"
        budgets.append(Budget(what=what, limit=DRAIN_PER_S, measured=served, unit="rows/s", at_least=True))
        budgets.append(
            Budget(what="covered rows lost or doubled by SIGKILL", limit=0, measured=abs(missing["ours"]), unit="rows")
        )
    return Report(
        name="log_call",
        title="`city.log()`",
        columns=("call", "median cost of a call", *(f"rows/s into {store}" for store in STORES), "lost to SIGKILL"),
        rows=rows,
        budgets=budgets,
        notes=[
            f"{n:,} calls a round in one loop with saves as they fall due: p99 {p99.text(unit='µs')}, mean "
            f"{mean.text(unit='µs')}; the clock itself takes {clock.text(unit='µs')} of each (noise floor). Rows/s of "
            "`city.log` are from the first call to the last row in the store, checkpoint, publication and drain "
            "included. Ours lost kernel and sidecar at once at the beginning of an iteration with `every=1`, and a "
            "second process resumed; the peers die after their last call returned."
        ],
        numbers={"call_us": median.median, "p99_us": p99.median, "drained_per_s": drained},
    )


STORES = ("SQLite", "`mlflow server`")

if __name__ == "__main__":
    measure.command_line(measured)

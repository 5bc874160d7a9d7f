"""Files of a run that are damaged or strange: nothing ends for them, nothing is started for ever, and it is said."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scripted_run import environment
from silent_world import UserProject

from qcity_nb import codec, settings
from qcity_nb.records import Event, Head
from qcity_nb.run import journal, lease
from qcity_nb.run.keeper import Keeper
from qcity_nb.stores.memory import MemoryStore

CELL = """
import time
import qcity_nb as qcity
city = qcity.up()
for step in city.loop(range(25), {}, every=1):
    city.log(x=step)
    time.sleep(0.15)
    if step == 8:
        open("now", "w").close()
print("done", step)
"""
GARBAGE = bytes(range(128, 168))


def damage(folder: Path, pattern: str, change: Callable[[Path], object]) -> int:
    files = [file for file in folder.glob(pattern) if file.is_file()]
    for file in files:
        change(file)
    return len(files)


def stray(folder: Path) -> int:
    places = [path for top in (".qcity/store/runs", ".qcity/local") for path in (folder / top).rglob("*")]
    for path in places:
        if path.is_dir():
            (path / ".DS_Store").write_bytes(GARBAGE)
    return len(places)


HARM: dict[str, Callable[[Path], int]] = {
    "journal": lambda at: damage(at, ".qcity/store/runs/*/files/journal/*", lambda file: file.write_bytes(GARBAGE)),
    "outbox": lambda at: damage(at, ".qcity/store/runs/*/files/outbox/*", lambda file: file.write_bytes(GARBAGE)),
    "an outbox line": lambda at: damage(
        at, ".qcity/store/runs/*/files/outbox/*", lambda file: file.write_bytes(file.read_bytes() + GARBAGE + b"\n")
    ),
    "a journal line": lambda at: damage(
        at, ".qcity/store/runs/*/files/journal/*", lambda file: file.write_bytes(file.read_bytes() + GARBAGE + b"\n")
    ),
    "rows": lambda at: damage(at, ".qcity/local/runs/*/*/rows/*", lambda file: file.write_bytes(GARBAGE)),
    "events": lambda at: damage(
        at, ".qcity/local/attempts/*/events.jsonl", lambda file: file.write_bytes(file.read_bytes() + GARBAGE + b"\n")
    ),
    "stray files": stray,
}


@pytest.mark.kill
@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", HARM)
def test_a_run_survives_it(tmp_path: Path, what: str) -> None:
    project = UserProject(tmp_path / "mine")
    project.write(
        "pyproject.toml", '[tool.qcity]\nproject = "mine"\ntracking = "jsonl://' + str(tmp_path / "m") + '"\n'
    )
    project.notebook("train.ipynb", [CELL])
    process = subprocess.Popen(
        [sys.executable, "-m", "qcity_nb.cli", "run", "train.ipynb"],
        cwd=project.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (project.folder / "now").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert HARM[what](project.folder) > 0
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "done 24" in project.shown()
    (head,) = project.heads()
    assert (head.state, head.term) == ("succeeded", 1), "no other attempt was needed"
    code, shown = project.qcity("show", head.run)
    assert code == 0
    assert "Traceback" not in shown
    log = next(project.folder.glob(".qcity/local/attempts/*/sidecar.log")).read_text()
    assert "Traceback" not in log
    if what in ("journal", "outbox"):
        assert shown.count("cannot be decoded: it is lost") == 1, "said once"


def made(store: MemoryStore, run: str, **changes: object) -> Head:
    head = codec.decode(Head, {"run": run, "key": "k", "project": "p", "notebook": "n.ipynb", **changes})
    return lease.create(store, head, files={name: GARBAGE for name in (head.journal, head.outbox) if name})


def test_a_keeper_survives_any_one_run(tmp_path: Path) -> None:
    store = MemoryStore("s")
    made(store, "a-damaged-1", journal="journal/t1-x.jsonl", outbox="outbox/t1-x.jsonl")
    made(store, "b-fine-1")
    store.publish("c-garbage-1", GARBAGE, expect=None)
    loaded = settings.load(tmp_path, {"local_dir": str(tmp_path / "l"), "tracking": ""}, environ={})
    launched: list[str] = []

    class Host:
        name = "local"

        def quote(self) -> str:
            return ""

        def find(self, attempt: str) -> None:
            if "a-damaged" in attempt:
                raise ZeroDivisionError("a bug of a launcher")

        def launch(self, spec: object) -> None:
            launched.append(spec.run)  # type: ignore[attr-defined]

        def stop(self, attempt: str, *, grace_s: float) -> None:
            """Nothing runs."""

    keeper = Keeper(store, loaded, launchers=lambda name: Host())  # type: ignore[arg-type, return-value]
    for _ in range(3):
        outcomes = keeper.keep(once=True)
    assert set(launched) == {"a-damaged-1", "b-fine-1"}
    assert outcomes["c-garbage-1"].error is not None
    assert "ZeroDivisionError" in str(outcomes["a-damaged-1"].error)
    assert outcomes["b-fine-1"].error is None


def test_a_chain_goes_on_after_a_segment_that_cannot_be_decoded() -> None:
    files = {"journal/t1-0.jsonl": GARBAGE}

    def add(tip: str, number: int) -> str:
        line = journal.encode_event(Event(kind=f"e{number}", at="", term=1))
        segment = journal.append(tip, line, folder="journal", term=1, read=files.__getitem__)
        assert segment.lost == (tip if number == 0 else "")
        files[segment.name] = segment.data
        return segment.name

    tip = add(add("journal/t1-0.jsonl", 0), 1)
    assert [each.kind for each in journal.decode_events(tip, files.__getitem__)] == ["e0", "e1"]
    files[tip] = files[tip] + GARBAGE + b"\n"
    assert [each.kind for each in journal.decode_events(tip, files.__getitem__)] == ["e0", "e1"]
    files["journal/loop"] = b'{"prev":"journal/loop"}\n'
    named: list[str] = []
    assert list(journal.walk("journal/loop", files.__getitem__, damaged=named.append)) == []
    assert named == ["journal/loop"]

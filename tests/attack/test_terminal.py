"""Whoever can write to the store must not control the terminal of those who look at it."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from qcity_nb import cli, codec
from qcity_nb.cli.progress import Progress
from qcity_nb.errors import UnknownRun
from qcity_nb.hosts import container
from qcity_nb.printable import PrintableStream, printable
from qcity_nb.records import Event, Head
from qcity_nb.run import journal, lease, policy
from qcity_nb.run.keeper import Outcome
from qcity_nb.run.mailbox import Mailbox
from qcity_nb.stores import open_store

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[1;1H\x9b31m\x08\x08\rX\x1b]8;;http://evil\x1b\\\u202egnp.exe\u2066\x7f"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
RUN = "train-abc123-1"


def hostile() -> Head:
    """A run record with such text in each place that takes any."""
    record: dict[str, Any] = {
        "run": RUN,
        "key": f"k{ESCAPES}",
        "project": f"p{ESCAPES}",
        "notebook": f"train{ESCAPES}.ipynb",
        "name": f"n{ESCAPES}",
        "created": f"2026{ESCAPES}",
        "parameters": {f"lr{ESCAPES}": ESCAPES},
        "term": 3,
        "state": "failed",
        "holder": {
            "attempt": f"a{ESCAPES}", "host": f"local{ESCAPES}", "node": f"here{ESCAPES}", "ttl_s": 1.0
        },
        "desired": {"hosts": [f"local{ESCAPES}"]},
        "checkpoints": [
            {"name": "checkpoints/t1-1-x.json", "digest": f"b2-{ESCAPES}", "seq": 1, "term": 1, "label": ESCAPES}
        ],
        "failure": {
            "cause": "notebook",
            "signature": "s",
            "message": f"ValueError{ESCAPES}",
            "traceback": f"\x1b[31mTraceback\x1b[0m{ESCAPES}",
            "error": "",
        },
        "tracked": {"uri": f"http://x{ESCAPES}", "run_id": ESCAPES},
        "launches": {"failed": 2, "term": 3, "reason": ESCAPES},
        "output": f"out{ESCAPES}.ipynb",
        "refused": ESCAPES,
    }  # fmt: skip
    return codec.decode(Head, record)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text('[tool.qcity]\nproject = "p"\nttl = 3\nheartbeat = 0.8\n')
    monkeypatch.chdir(tmp_path)
    store = open_store(str(tmp_path / ".qcity" / "store"))
    event = Event(kind=f"died{ESCAPES}", at="2026-12-01T00:00:00+00:00", term=1, data={"reason": ESCAPES, "host": "x"})
    line = codec.dumps(event) + b"\n"
    head = hostile()
    segment = journal.append("", line, folder="journal", term=1, read=lambda name: b"")
    named = codec.decode(Head, {**codec.encode(head), "journal": segment.name})
    lease.create(store, named, files={segment.name: segment.data})
    return tmp_path


COMMANDS = [
    ["ps"],
    ["ps", "--all"],
    ["show", RUN],
    ["show", RUN, "--explain"],
    ["logs", RUN],
    ["checkpoints", RUN],
    ["checkpoints", "verify", RUN],
    ["checkpoints", "diff", RUN, "1", "1"],
    ["checkpoints", "export", RUN, "--out", "there"],
    ["checkpoints", "prune", RUN, "--keep", "1"],
    ["keep", "--once"],
    ["keep", "--once", "--run", RUN],
    ["stop", RUN],
    ["resume", RUN, "--detach"],
    ["doctor"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_control_characters(
    project: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        cli.main(command)
    out, err = capsys.readouterr()
    assert out or err or command[0] == "keep"
    assert RAW.findall(out.replace("\n", "").replace("\t", "")) == []
    assert RAW.findall(err.replace("\n", "").replace("\t", "")) == []


@pytest.mark.parametrize(
    "command", [["ps", "--json"], ["show", RUN, "--json"], ["checkpoints", RUN, "--json"]], ids=" ".join
)
def test_json_is_json(project: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(command)
    out = capsys.readouterr().out
    assert RAW.findall(out.replace("\n", "")) == []
    assert json.loads(out) is not None


def test_the_live_line_is_the_programs_own() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    wrapped: Any = PrintableStream(stream)
    progress = Progress(wrapped)
    head = codec.decode(Head, {**codec.encode(hostile()), "state": "running"})
    progress.see(Outcome(run=RUN, action=policy.Nothing(reason=""), head=head))
    progress.say(f"more{ESCAPES}")
    progress.close()
    text = stream.getvalue()
    assert "\r\x1b[K" in text
    assert RAW.findall(text.replace("\r\x1b[K", "").replace("\n", "")) == []


def test_errors_and_the_logs_of_jobs_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert RAW.findall(str(UnknownRun(f"no run {ESCAPES}"))) == []
    container._say(f"run {ESCAPES} is over")
    assert RAW.findall(capsys.readouterr().err.replace("\n", "")) == []


def test_the_notebook_gets_clean_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qcity_nb.kernel.sidecar_client import SidecarClient
    from qcity_nb.run.mailbox import Status

    mailbox = Mailbox(tmp_path).open()
    SidecarClient(mailbox, Status(state="held", run="r", term=1)).announce("items", ESCAPES, step=0)
    assert RAW.findall(capsys.readouterr().err.replace("\n", "")) == []


def test_harmless_text_stays_as_it_is() -> None:
    for text in ("plain", "tabs\tand\nlines", "Grüße, 数据 🎉 ‰", "é"):
        assert printable(text) == text
    assert printable("\x1b[31mred\x1b[0m") == "red"
    assert printable("10%\r20%\r\n") == "10%\n20%\n"
    assert printable("\x1b]0;x\x07") == "\\x1b]0;x\\x07"

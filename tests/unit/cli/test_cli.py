"""The command line: help, views, exit codes, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qcity_nb import cli, errors, settings
from qcity_nb.cli import foreground, parser
from qcity_nb.cli.page_html import listing
from qcity_nb.cli.page_reader import Reader
from qcity_nb.cli.progress import Progress
from qcity_nb.engine import parameters
from qcity_nb.hosts.local import launcher
from qcity_nb.records import CheckpointRef, DesiredState, Failure, Head, Holder, Launches, RunState
from qcity_nb.run import lease
from qcity_nb.stores import open_store
from qcity_nb.views.words import mask, place_of

COMMANDS = (
    *("run", "keep", "ps", "show", "logs", "checkpoints", "stop", "resume", "doctor", "hosts", "page"),
    *("init", "demo"),
)


def notebook(*cells: str, tagged: str | None = None, **changes: Any) -> str:
    def code(source: str, *tags: str) -> dict[str, Any]:
        return {
            "cell_type": "code",
            "source": source,
            "metadata": {"tags": list(tags)},
            "outputs": [],
            "execution_count": None,
        }

    body = [code(tagged, "parameters")] if tagged is not None else []
    body += [code(cell) for cell in cells]
    return json.dumps({"cells": body, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **changes})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("STORE", "LOCAL_DIR", "HOSTS", "TRACEBACK"):
        monkeypatch.delenv(f"QCITY_{name}", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.qcity]\nproject = "p"\nttl = 3\nheartbeat = 0.8\n')
    (tmp_path / "train.ipynb").write_text(notebook("print(epochs)", tagged="epochs = 3\nlr = 0.1\nname = 'x'"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(project: Path, run: str = "train-abc123-1", **changes: Any) -> Head:
    store = open_store(str(project / ".qcity" / "store"))
    return lease.create(store, Head(run=run, key="k", project="p", notebook="train.ipynb", **changes))


def head(project: Path, run: str = "train-abc123-1") -> Head:
    return lease.read(open_store(str(project / ".qcity" / "store")), run).head


def attempt(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts run ``code`` with the store's address and the run in ``store`` and ``spec``."""
    text = (
        "import sys\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from qcity_nb import codec\nfrom qcity_nb.records import *\nfrom qcity_nb.run import lease\n"
        "from qcity_nb.stores import open_store\n"
        "spec = codec.loads(AttemptSpec, Path(sys.argv[-1]).read_bytes())\nstore = open_store(spec.store)\n" + code
    )
    monkeypatch.setattr(launcher, "_command", lambda path: [sys.executable, "-c", text, str(path)])


ENDS: dict[str, str] = {
    "succeeded": (
        "me = Holder(attempt=spec.attempt, host='local')\n"
        "held = lease.acquire(store, spec.run, me, declared_dead=spec.declared_dead)\n"
        "held.release(lambda head: replace(head, state='succeeded'))\n"
    ),
    "failed": (
        "me = Holder(attempt=spec.attempt, host='local')\n"
        "held = lease.acquire(store, spec.run, me, declared_dead=spec.declared_dead)\n"
        "why = Failure(cause='notebook', signature='s', message='ValueError: no', traceback='Traceback: no')\n"
        "held.release(lambda head: replace(head, state='failed', failure=why))\nsys.exit(3)\n"
    ),
    "stopped": (
        "me = Holder(attempt=spec.attempt, host='local')\n"
        "held = lease.acquire(store, spec.run, me, declared_dead=spec.declared_dead)\n"
        "held.release(lambda head: replace(head, state='stopped'))\nsys.exit(4)\n"
    ),
    "dies": "sys.exit(2)\n",
}


# --- help


def test_help_is_fast_and_names_every_exit_code() -> None:
    code = "import sys; from qcity_nb.cli.parser import build_parser; build_parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"papermill", "nbformat", "mlflow", "numpy", "huggingface_hub", "dvc", "ipykernel", "IPython"}
    assert not heavy & set(loaded)
    assert "qcity_nb.run.keeper" not in loaded
    codes = {
        each.exit_code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.QcityError)
    }
    documented = {int(line.split()[0]) for line in parser.EXIT_CODES.splitlines()[1:]}
    assert codes | {0, 130} <= documented


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert "examples:" in output
    assert f"qcity {command}" in output


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("qcity 0.")


# --- bad input


def broken(project: Path) -> None:
    (project / "text.ipynb").write_text("no json")
    (project / "list.ipynb").write_text("[]")
    (project / "old.ipynb").write_text(notebook("x", nbformat=3))
    (project / "julia.ipynb").write_text(notebook("x", metadata={"kernelspec": {"name": "julia-1.9"}}))
    (project / "empty.ipynb").write_text(notebook("  "))
    (project / "plain.ipynb").write_text(notebook("1"))
    (project / "cells.ipynb").write_text('{"cells": [1], "nbformat": 4}')
    put(project, "done-abc123-1", state="succeeded")
    put(project, "dull-abc123-1", state="succeeded")
    store = project / "corrupt"
    made = open_store(str(store))
    made.publish("bad-1", b"rubbish", expect=None)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ("run nowhere.ipynb", 2, "no notebook"),
        ("run .", 2, "cannot be read"),
        ("run text.ipynb", 2, "not JSON"),
        ("run list.ipynb", 2, "not a notebook"),
        ("run cells.ipynb", 2, "not a notebook"),
        ("run old.ipynb", 2, "nbformat 3"),
        ("run julia.ipynb", 2, "asks for the kernel 'julia-1.9', which is not installed; there are: "),
        ("run empty.ipynb", 2, "no code"),
        ("run plain.ipynb -p x 1", 2, "takes no parameters"),
        ("run train.ipynb -p epoch 1", 2, "it has epochs, lr, name"),
        ("run train.ipynb -p epochs many", 2, "a number is needed"),
        ("run train.ipynb -p epochs 1 -p epochs 2", 2, "given twice"),
        ("run train.ipynb --on moon", 2, "no host named 'moon'"),
        ("run train.ipynb -o missing/out.ipynb", 2, "no directory missing"),
        ("run train.ipynb --store ftp://x", 2, "ftp"),
        ("run train.ipynb --store train.ipynb", 6, "train.ipynb"),
        ("run train.ipynb --store /proc/qcity", 6, "/proc/qcity"),
        ("run train.ipynb -o train.ipynb/out.ipynb", 2, "no directory train.ipynb"),
        ("show nothing", 2, "no run 'nothing'"),
        ("show d", 2, "may be any of done-abc123-1, dull-abc123-1"),
        ("show bad-1 --store corrupt", 6, "cannot be read"),
        ("keep --run bad-1 --store corrupt", 6, "cannot be read"),
        ("logs done", 2, "no attempt of done-abc123-1"),
        ("stop nothing", 2, "no run 'nothing'"),
        ("resume nothing", 2, "no run 'nothing'"),
        ("resume done", 2, "has succeeded"),
        ("resume done --on moon", 2, "moon"),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(
    project: Path, argv: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(project)
    before = sorted(open_store(str(project / ".qcity" / "store")).runs())
    assert cli.main(argv.split()) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("qcity: ")
    assert output.err.count("\n") == 1
    assert words in output.err
    assert sorted(open_store(str(project / ".qcity" / "store")).runs()) == before, "nothing was begun"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[tool.qcity", "pyproject.toml is not valid TOML"),
        ("[tool.qcity]\ncolour = 1", "unknown key 'colour'"),
        ("[tool.qcity]\nttl = 5\nheartbeat = 2", "less than three heartbeats"),
        ("[tool.qcity]\nttl = 'soon'", "ttl"),
    ],
)
def test_a_broken_project_gets_one_line(
    project: Path, table: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text(table)
    for argv in (["run", "train.ipynb"], ["ps"], ["keep", "--once"]):
        assert cli.main(argv) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        assert output.err.startswith("qcity: ")
        assert words in output.err


def test_a_traceback_is_shown_on_request(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NotebookInvalid):
        cli.main(["--traceback", "run", "nowhere.ipynb"])
    with pytest.raises(errors.NotebookInvalid):
        cli.main(["run", "nowhere.ipynb", "--traceback"])
    monkeypatch.setenv("QCITY_TRACEBACK", "1")
    with pytest.raises(errors.NotebookInvalid):
        cli.main(["run", "nowhere.ipynb"])


def test_a_wrong_command_line_exits_with_2() -> None:
    for argv in ([], ["fly"], ["run"], ["run", "x", "-p", "only"], ["run", "x", "--on", ","]):
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        assert ended.value.code == 2


# --- parameters


def test_values_follow_the_notebooks_defaults(tmp_path: Path) -> None:
    cell = "%matplotlib inline\nn: int = 3\nlr = 0.1\nname = 'x'\nflag = False\nitems = [1]\nfree = f()\nnone = None"
    path = tmp_path / "n.ipynb"
    path.write_text(notebook("1", tagged=cell))
    source = parameters.read(path)
    words = [
        ("n", "5"),
        ("lr", "1"),
        ("name", "5"),
        ("flag", "true"),
        ("items", "[1, 2]"),
        ("free", "x"),
        ("none", "7"),
    ]
    values = parameters.type_parameters(source, words, notebook="n")
    assert values == {"n": 5, "lr": 1.0, "name": "5", "flag": True, "items": [1, 2], "free": "x", "none": 7}
    assert isinstance(values["lr"], float)
    for name, text in (("flag", "5"), ("n", "true"), ("lr", "fast")):
        with pytest.raises(errors.UsageError, match=name):
            parameters.type_parameters(source, [(name, text)], notebook="n")


def test_a_parameters_cell_that_is_no_python_still_names_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    path.write_text(notebook("1", tagged="n = 3\nx == 4\nthis is not python\nm: int = 4"))
    assert set(parameters.read(path).defaults or {}) == {"n", "m"}


# --- outcomes


@pytest.mark.parametrize(
    ("end", "code", "state"), [("succeeded", 0, "succeeded"), ("failed", 3, "failed"), ("stopped", 4, "stopped")]
)
def test_run_ends_with_the_runs_outcome(
    project: Path,
    end: str,
    code: int,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attempt(ENDS[end], monkeypatch)
    assert cli.main(["run", "train.ipynb", "-p", "epochs", "5", "--json"]) == code
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert (report["state"], report["exit_code"], report["attempts"]) == (state, code, 1)
    now = head(project, report["run"])
    assert now.parameters == {"epochs": 5}
    assert now.source
    assert now.output == f".qcity/executed/{now.run}.ipynb"
    assert ("Traceback: no" in output.err) == (end == "failed")


def test_an_attempt_that_can_never_work_is_given_up(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(ENDS["dies"], monkeypatch)
    assert cli.main(["run", "train.ipynb"]) == 10
    output = capsys.readouterr()
    assert "gave up" in output.out
    assert "exit code 2" in output.err


def test_an_unfinished_run_is_resumed_and_its_new_notebook_noticed(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt(ENDS["stopped"], monkeypatch)
    assert cli.main(["run", "train.ipynb"]) == 4
    output = capsys.readouterr()
    run = output.out.split(":")[0]
    assert f"qcity resume {run}" in output.out
    (project / "train.ipynb").write_text(notebook("print(1)", tagged="epochs = 3"))
    attempt(ENDS["succeeded"], monkeypatch)
    assert cli.main(["run", "train.ipynb"]) == 0
    output = capsys.readouterr()
    assert "unfinished, resumes" in output.err
    assert "has changed" in output.err
    assert output.out.startswith(f"{run}: succeeded in attempt 2")
    assert cli.main(["run", "train.ipynb"]) == 0
    assert "new run" in capsys.readouterr().err


WAITS = (
    "import time\nfrom qcity_nb.run.lease import acquire\n"
    "me = Holder(attempt=spec.attempt, host='local', ttl_s=3)\n"
    "held = acquire(store, spec.run, me, declared_dead=spec.declared_dead)\n"
    "for _ in range(600):\n"
    "    if LISTENS and held.renew().desired.state == 'stopped':\n"
    "        held.release(lambda head: replace(head, state='stopped'))\n        sys.exit(4)\n"
    "    held.renew()\n    time.sleep(0.1)\n"
)


@pytest.mark.parametrize(("listens", "presses"), [(True, 1), (False, 2)])
def test_ctrl_c_drains_and_twice_ends_at_once(
    project: Path,
    listens: bool,
    presses: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    attempt(f"LISTENS = {listens}\n{WAITS}", monkeypatch)
    pressed = 0
    see = Progress.see

    def press(self: Progress, outcome: Any) -> None:
        nonlocal pressed
        see(self, outcome)
        held = outcome.head is not None and outcome.head.holder is not None
        if held and pressed < presses:
            pressed += 1
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "see", press)
    assert cli.main(["run", "train.ipynb"]) == 130
    assert pressed == presses
    output = capsys.readouterr()
    assert "`qcity resume" in output.out
    assert head(project, output.out.split(":")[0]).state == "stopped"


def test_detach_returns_at_once_and_a_keeper_does_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    popen: Callable[..., Any] = subprocess.Popen

    def record(command: list[str], **options: Any) -> Any:
        commands.append(command)
        assert options["start_new_session"]
        return popen([sys.executable, "-c", ""], **options)

    monkeypatch.setattr(subprocess, "Popen", record)
    assert cli.main(["run", "train.ipynb", "--detach"]) == 0
    run = capsys.readouterr().out.strip()
    assert commands[0][1:6] == ["-m", "qcity_nb.cli", "keep", "--run", run]
    assert (project / ".qcity/local/keepers" / f"{run}.log").exists()
    monkeypatch.undo()
    monkeypatch.chdir(project)
    attempt(ENDS["succeeded"], monkeypatch)
    assert cli.main(commands[0][3:]) == 0
    assert head(project, run).state == "succeeded"


@pytest.mark.parametrize(
    ("term", "launches", "words"),
    [
        (3, Launches(), "in attempt 3"),
        (3, Launches(term=2, failed=2), "in attempt 3; 2 launches failed before it began"),
        (3, Launches(term=2, failed=1), "in attempt 3; 1 launch failed before it began"),
        (3, Launches(term=3, failed=2), "in attempt 3; 2 launches failed after it"),
        (3, Launches(term=1, failed=2), "in attempt 3"),
        (0, Launches(failed=5), "before attempt 1; 5 launches failed before it began"),
    ],
)
def test_attempts_have_numbers_and_failed_launches_are_counted_apart(
    project: Path, term: int, launches: Launches, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    created = put(project, term=term)
    store = open_store(str(project / ".qcity" / "store"))
    lease.amend(store, created.run, lambda now: replace(now, state="stopped", launches=launches))
    assert foreground.follow(store, settings.load(project), created.run, Progress(sys.stderr)) == 4
    assert capsys.readouterr().out.splitlines()[0] == f"{created.run}: stopped {words}"
    assert cli.main(["show", created.run]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("attempt ")]
    failed = words.partition("; ")[2]
    assert line.split(maxsplit=1)[1] == f"{term or 'none yet'} of at most 50{'; ' if failed else ''}{failed}"
    [shown] = Reader(store).read()
    page = listing([shown], address="x")
    assert failed.replace(" it", f" attempt {term or 1}") in page
    assert ("failed after" in page or "failed before" in page) == bool(failed)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--every 10m", "--every goes with --schedule HOST"),
        ("--list", "--list goes with --schedule HOST"),
        ("--off", "--off goes with --schedule HOST"),
        ("--schedule hf-jobs --once", "--once does not go with --schedule"),
        ("--schedule hf-jobs --run x", "--run does not go with --schedule"),
        ("--schedule local --on local", "--on does not go with --schedule"),
        ("--schedule local", "only hf-jobs can run a keeper on a schedule"),
    ],
)
def test_options_of_a_schedule(project: Path, options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keep", *options.split()]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert words in output.err


@pytest.mark.parametrize("options", ["--list --off", "--every 10m --off"])
def test_one_action_for_a_schedule(project: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["keep", "--schedule", "hf-jobs", *options.split()])
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


# --- stop, ps, show, logs, doctor


def test_stop_is_immediate_with_nobody_there_and_a_wish_otherwise(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(project)
    put(project, "held-abc123-1", term=1, holder=Holder(attempt="a", host="local"))
    assert cli.main(["stop", "train"]) == 0
    assert "stopped; `qcity resume" in capsys.readouterr().out
    assert head(project).state == "stopped"
    assert cli.main(["stop", "held"]) == 0
    assert "next loop boundary" in capsys.readouterr().out
    now = head(project, "held-abc123-1")
    assert (now.state, now.desired) == ("running", DesiredState(state="stopped"))
    assert cli.main(["stop", "train"]) == 0
    assert "already" in capsys.readouterr().out


def test_ps_lists_what_can_be_read_and_what_cannot(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ps"]) == 0
    assert "no runs" in capsys.readouterr().out
    newest = CheckpointRef(name="c", digest="d", seq=4, term=2, step=17, at="2026-01-01T00:00:00.000+00:00")
    put(project, term=2, checkpoints=(replace(newest, label="warm"),))
    assert cli.main(["show", "train"]) == 0
    assert "warm (step 17)" in capsys.readouterr().out
    open_store(str(project / ".qcity" / "store")).publish("bad-1", b"rubbish", expect=None)
    assert cli.main(["ps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RUN", "STATE", "HOST", "STEP", "SAVED", "ATTEMPT"]
    assert lines[1].split()[:2] == ["bad-1", "unreadable"]
    assert lines[2].split()[:4] == ["train-abc123-1", "waiting", "-", "17"]
    assert cli.main(["ps", "--json"]) == 0
    assert [each["state"] for each in json.loads(capsys.readouterr().out)] == ["unreadable", "waiting"]


def test_show_and_logs_tell_what_happened(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt("print('hello from the attempt', flush=True)\n" + ENDS["failed"], monkeypatch)
    assert cli.main(["run", "train.ipynb"]) == 3
    run = capsys.readouterr().out.split(":")[0]
    assert cli.main(["show", run]) == 0
    shown = capsys.readouterr().out
    for word in ("failed", "ValueError: no", "Traceback: no", "launched", "host: local"):
        assert word in shown
    assert cli.main(["show", run, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [event["kind"] for event in report["events"]] == ["launched"]
    for argv in (["logs", run], ["logs", "-f", run]):
        assert cli.main(argv) == 0
        assert capsys.readouterr().out == "hello from the attempt\n"


def test_doctor_shows_every_setting_and_what_is_wrong(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "nothing is wrong" in output
    assert "pyproject.toml" in output
    assert "the newest 3, and those with a name" in output
    assert "no limit is known" in output
    assert "snapshot_time_share            10%" in output
    assert "storage_budget                 50.0 GB" in output
    open_store(str(project / ".qcity" / "store")).publish("bad-1", b"rubbish", expect=None)
    (project / "pyproject.toml").write_text(
        '[tool.qcity]\nhosts = ["local", "moon"]\nlocal_dir = "train.ipynb"\nkeep_last = 101\n'
    )
    assert cli.main(["doctor", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    wrong = {each["what"] for each in report["findings"] if each["verdict"] == "wrong"}
    assert wrong == {"run bad-1", "host moon", "local", "keep"}
    assert report["settings"]["hosts"] == {"value": "local, moon", "origin": "pyproject.toml"}


def test_doctor_shows_what_stays_and_when_the_session_ends(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("QCITY_KEEP_EVERY", "100")
    monkeypatch.setenv("QCITY_KEEP_BEST", "fid:min")
    assert cli.main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "the newest 3, the first of each 100 steps, the one with the lowest fid, and those with a name" in output
    assert "ends after 6 h (https://docs.github.com/" in output
    monkeypatch.setenv("QCITY_SESSION_LIMIT", "90m")
    assert cli.main(["doctor"]) == 0
    assert "ends after 1.5 h (session_limit)" in capsys.readouterr().out


def test_doctor_shows_no_secrets(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("https://me:hunter2@example.org/x.mlflow", "https://example.org/x.mlflow?token=hunter3"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert cli.main(["doctor"]) == 2
        output = capsys.readouterr()
        assert "MLFLOW_TRACKING_PASSWORD" in output.err
        assert "hunter" not in output.out + output.err
    assert mask("s3://k:p@h/b?a=1&access_token=abc&z=2") == "s3://***@h/b?a=1&access_token=***&z=2"


@pytest.mark.parametrize(
    ("state", "failure", "code"),
    [
        ("failed", Failure(cause="host", signature="gave up", message="50 attempts"), 10),
        ("failed", Failure(cause="notebook", signature="s", message="no"), 3),
        ("succeeded", None, 0),
    ],
)
def test_a_run_that_ended_elsewhere_is_reported_alike(
    project: Path, state: RunState, failure: Failure | None, code: int
) -> None:
    made = put(project)
    store = open_store(str(project / ".qcity" / "store"))
    lease.amend(store, made.run, lambda now: replace(now, state=state, failure=failure))
    assert foreground.follow(store, settings.load(project), made.run, Progress(sys.stderr)) == code


@pytest.mark.parametrize(
    ("step", "cells", "words"),
    [(0, 0, "step 0"), (3, 0, "step 3"), (0, 1, "1 cell"), (0, 7, "7 cells"), (3, 2, "step 3 and 2 cells")],
)
def test_how_far_a_checkpoint_is_in_words(step: int, cells: int, words: str) -> None:
    assert place_of(CheckpointRef(name="c", digest="d", seq=1, term=1, step=step, cells=cells)) == words

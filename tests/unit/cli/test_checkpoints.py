"""`qcity checkpoints`: what is printed, the exit codes, and one clear line for every kind of bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_run import RUN, CheckpointRun
from optional import part

from qcity_nb import cli
from qcity_nb.checkpoint.formats.safetensors_dcp import from_dcp, from_safetensors
from qcity_nb.stores import open_store

ACTIONS = ("list", "diff", "verify", "export", "prune")


def state(value: float) -> dict[str, Any]:
    return {
        "a": np.full(2000, float(value)),
        "fixed": np.arange(2000),
        "best": float(value),
        "rng": np.random.default_rng(1),
    }


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointRun:
    """Four checkpoints, the last three of them published, two loops in the last one."""
    for name in ("STORE", "LOCAL_DIR", "TRACEBACK"):
        monkeypatch.delenv(f"QCITY_{name}", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.qcity]\nproject = "p"\n')
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".qcity"
    folder.mkdir()
    run = CheckpointRun(open_store(str(folder / "store")), folder)
    for seq in range(1, 4):
        run.save({"epochs": state(seq)}, publish=seq > 1)
    run.save({"epochs": state(4), "inner": {"n": [1]}}, reason="asked for")
    return run


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["checkpoints", *words]) == code, capsys.readouterr()
    read = capsys.readouterr()
    assert bool(read.err) == bool(code)
    return read.err if code else read.out


# --- help


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_two_examples(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoints", action, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(re.findall(rf"^  qcity checkpoints ({action} )?train", text, re.MULTILINE)) == 2


def test_the_command_itself_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoints", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {action} " in text for action in ACTIONS)


def test_without_a_run_it_is_a_wrong_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoints"])
    assert ended.value.code == 2


# --- list


@pytest.mark.parametrize("words", [["list", "train"], ["train"], ["--store", ".qcity/store", "train"]])
def test_list_is_a_table_newest_first(
    words: list[str], made: CheckpointRun, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(capsys, *words).splitlines()
    assert lines[0].split() == ["SEQ", "STEP", "ATTEMPT", "SIZE", "NEW", "SAVED", "REASON", "WHERE"]
    assert [line.split()[0] for line in lines[1:]] == ["4", "3", "2"]
    assert lines[1].endswith("asked for  store, local (attempt 1)")
    assert lines[3].endswith("every      store")


def test_list_as_json(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(printed(capsys, "train", "--json"))
    assert [(each["seq"], each["step"], each["term"], each["reason"]) for each in report] == [
        (4, 40, 1, "asked for"),
        (3, 30, 1, "every"),
        (2, 20, 1, "every"),
    ]
    assert report[0]["where"] == ["store", "local (attempt 1)"]
    assert report[0]["damage"] == []
    assert report[1]["size_bytes"] > report[1]["new_bytes"] > 16000


def test_names_are_shown_where_there_are_any(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    made.save({"epochs": state(5)}, values={"name": "best"})
    lines = printed(capsys, "train").splitlines()
    assert "NAME" in lines[0]
    assert " best " in lines[1]


def test_a_run_without_checkpoints(
    tmp_path: Path, made: CheckpointRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointRun(open_store(str(tmp_path / "other")), tmp_path / "else")
    monkeypatch.setenv("QCITY_LOCAL_DIR", str(tmp_path / "else" / "local"))
    for words in (["list"], ["verify"]):
        assert "no checkpoint yet" in printed(capsys, *words, "train", "--store", "other")
    assert "no checkpoint yet" in printed(capsys, "export", "train", "1", "x", "--store", "other", code=2)


# --- diff


def test_diff_says_what_changed(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "diff", "train", "2", "3")
    assert "checkpoint 2 (attempt 1, step 20) -> checkpoint 3 (attempt 1, step 30)" in text
    assert re.search(r"^a +float64 \[2000\] +2000 \(100%\) +1 +0\.5$", text, re.MULTILINE)
    assert re.search(r"^best +float +2\.0 -> 3\.0$", text, re.MULTILINE)
    assert "fixed" not in text
    assert "2 variables equal" in text


def test_diff_of_a_checkpoint_with_itself(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "diff", "train", "newest", "4", "--loop", "epochs")
    assert "4 variables equal; global random generators equal" in text
    assert "VARIABLE" not in text


def test_diff_of_loops_that_one_has(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert "loop inner: only in checkpoint 4" in printed(capsys, "diff", "train", "previous", "newest")


def test_diff_as_json(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(printed(capsys, "diff", "train", "2", "3", "--json"))
    loop = report["loops"]["epochs"]
    assert (report["before"], report["after"], loop["done"], loop["equal"]) == (2, 3, [2, 3], 2)
    assert [each["path"] for each in loop["differences"]] == ["a", "best"]
    assert loop["differences"][0]["max_change"] == 1


# --- verify


def test_verify_of_intact_ones(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "verify", "train").splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["4", "4", "3", "3", "2"]
    assert all(line.endswith("intact") for line in lines[1:])
    assert len(printed(capsys, "verify", "train", "newest", "4", "2").splitlines()) == 4


def test_verify_names_what_is_damaged(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    pack = next((made.local.parent / "store").rglob("t1-3-*.pack"))
    pack.chmod(0o600)
    pack.write_bytes(bytes(pack.stat().st_size))
    assert cli.main(["checkpoints", "verify", "train"]) == 7
    read = capsys.readouterr()
    assert re.search(r"^3 +store +\d +damaged$", read.out, re.MULTILINE)
    assert re.search(r"^4 +local \(attempt 1\) +\d +intact$", read.out, re.MULTILINE)
    assert len(read.err.splitlines()) == 1
    assert "checkpoint 3 in store is damaged" in read.err


# --- export


def test_export_as_safetensors(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "export", "train", "3", "out.safetensors")
    assert text.splitlines()[0].startswith("out.safetensors: checkpoint 3 (attempt 1, step 30), loop epochs, 3")
    assert "left out: rng, a numpy.random._generator.Generator" in text
    assert from_safetensors("out.safetensors")["a"][0] == 3


@pytest.mark.parametrize("words", [["out"], ["out.safetensors", "--format", "dcp"]])
def test_export_as_dcp(words: list[str], made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    part("torch")
    printed(capsys, "export", "train", "newest", *words, "--loop", "epochs")
    assert from_dcp(words[0])["best"] == 4


def test_export_overwrites_nothing(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.safetensors").write_text("mine")
    assert "out.safetensors exists already" in printed(capsys, "export", "train", "3", "out.safetensors", code=2)
    assert Path("out.safetensors").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "train", "4", "x"), "name one of its loops with --loop: epochs, inner"),
        (("export", "train", "4", "x", "--loop", "y"), "name one of its loops with --loop: epochs, inner"),
        (("export", "train", "4", "no/such/x"), "no/such is not a directory"),
        (("export", "train", "9", "x"), "no checkpoint '9'; there are 4, 3, 2, newest and previous"),
        (("diff", "train", "9", "4"), "no checkpoint '9'"),
        (("verify", "train", "9"), "no checkpoint '9'"),
        (("list", "other"), "no run 'other'"),
    ],
)
def test_wrong_arguments_get_one_line(
    words: tuple[str, ...], message: str, made: CheckpointRun, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *words, code=2)
    assert message in text
    assert len(text.splitlines()) == 1
    assert not Path("x").exists()


# --- prune


def test_prune_says_what_it_frees_and_frees_it(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    made.release()
    names = made.store.names(RUN)
    text = printed(capsys, "prune", "train", "--keep", "1", "--dry-run")
    assert re.search(r"keeps checkpoint 4, drops checkpoints 3, 2; frees \d.* in \d objects", text)
    assert made.store.names(RUN) == names
    text = printed(capsys, "prune", "train", "--keep", "1")
    assert "dropped checkpoints 3, 2; freed" in text
    assert len(made.store.names(RUN)) < len(names)
    assert "nothing to drop" in printed(capsys, "prune", "train", "--keep", "1")
    printed(capsys, "verify", "train")


def test_prune_leaves_a_living_attempt_alone(made: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    names = made.store.names(RUN)
    for more in ([], ["--dry-run"]):
        assert f"{RUN} is held by attempt 1: a" in printed(capsys, "prune", "train", "--keep", "1", *more, code=5)
    assert made.store.names(RUN) == names


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_the_newest_cannot_be_pruned(keep: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["checkpoints", "prune", "train", "--keep", keep])
    assert ended.value.code == 2
    assert "--keep" in capsys.readouterr().err

"""Settings: who wins, where each value came from, and what is refused by name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from qcity_nb import __version__
from qcity_nb.errors import UsageError
from qcity_nb.settings import ENV, Settings, find_project, load, seconds


def write(root: Path, text: str) -> Path:
    (root / "pyproject.toml").write_text(text, encoding="utf-8")
    return root


def test_defaults_lie_below_the_project(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={})
    assert settings.store == str(tmp_path / ".qcity" / "store")
    assert settings.local_dir == tmp_path / ".qcity" / "local"
    assert settings.tracking == f"sqlite:///{tmp_path / '.qcity' / 'mlflow.db'}"
    assert settings.hosts == ("local",)
    assert settings.stall_timeout_s is None
    assert set(settings.origin.values()) == {"default"}


def test_every_setting_has_an_origin(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={})
    assert set(settings.origin) == {field.name for field in fields(Settings)} - {"project", "origin"}


def test_each_source_overrides_the_one_before(tmp_path: Path) -> None:
    write(tmp_path, "[tool.qcity]\nttl = 40\nheartbeat = 4\npublish = 5\n")
    environ = {"QCITY_TTL": "50", "QCITY_HEARTBEAT": "6s"}
    settings = load(tmp_path, {"ttl_s": 60}, environ)
    assert (settings.ttl_s, settings.heartbeat_s, settings.publish_s) == (60, 6, 5)
    assert settings.origin["ttl_s"] == "argument"
    assert settings.origin["heartbeat_s"] == "environment QCITY_HEARTBEAT"
    assert settings.origin["publish_s"] == "pyproject.toml"
    assert settings.origin["max_attempts"] == "default"


def test_an_argument_of_none_is_not_given(tmp_path: Path) -> None:
    settings = load(tmp_path, {"ttl": None, "hosts": None}, {"QCITY_TTL": "50"})
    assert settings.ttl_s == 50
    assert settings.origin["ttl_s"] == "environment QCITY_TTL"
    assert settings.origin["hosts"] == "default"


def test_an_empty_variable_is_not_given(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"QCITY_TTL": "", "MLFLOW_TRACKING_URI": ""}).origin["ttl_s"] == "default"


def test_the_full_name_of_a_variable_overrides_the_short_one(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"QCITY_TTL": "50", "QCITY_TTL_S": "70"})
    assert (settings.ttl_s, settings.origin["ttl_s"]) == (70, "environment QCITY_TTL_S")


def test_mlflows_own_variable_is_weaker_than_ours(tmp_path: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    settings = load(tmp_path, environ=environ)
    assert settings.tracking == "http://127.0.0.1:5000"
    assert settings.origin["tracking"] == "environment MLFLOW_TRACKING_URI"
    assert load(tmp_path, environ={**environ, "QCITY_TRACKING": "http://other"}).tracking == "http://other"
    write(tmp_path, '[tool.qcity]\ntracking = "http://project"\n')
    assert load(tmp_path, environ=environ).tracking == "http://project"


def test_the_process_environment_is_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV + "MAX_ATTEMPTS", "7")
    monkeypatch.chdir(tmp_path)
    assert load().max_attempts == 7


def test_relative_places_are_the_projects(tmp_path: Path) -> None:
    write(tmp_path, '[tool.qcity]\nstore = "runs"\nlocal_dir = "disk"\n')
    inside = tmp_path / "notebooks"
    inside.mkdir()
    settings = load(inside, environ={})
    assert settings.store == str(tmp_path / "runs")
    assert settings.local_dir == tmp_path / "disk"


def test_addresses_and_absolute_places_stay(tmp_path: Path) -> None:
    settings = load(tmp_path, {"store": "file:///elsewhere", "local_dir": "/disk"}, {})
    assert (settings.store, settings.local_dir) == ("file:///elsewhere", Path("/disk"))


def test_hosts_from_a_list_and_from_a_text(tmp_path: Path) -> None:
    write(tmp_path, '[tool.qcity]\nhosts = ["kaggle", "local"]\n')
    assert load(tmp_path, environ={}).hosts == ("kaggle", "local")
    assert load(tmp_path, environ={"QCITY_HOSTS": "hf-jobs, local"}).hosts == ("hf-jobs", "local")


def test_keys_of_other_parts_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, '[tool.qcity]\nproject = "digits"\n[tool.qcity.params]\nx = 1\n[tool.qcity.data]\ny = "d"\n')
    settings = load(tmp_path, environ={})
    assert settings.project.name == "digits"
    assert set(settings.origin.values()) == {"default"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('ttl = "soon"', "ttl_s = 'soon'"),
        ("ttl = -1", "ttl_s = -1"),
        ("ttl = 0", "ttl_s = 0: write more than 0 s"),
        ("heartbeat = 0", "heartbeat_s = 0: write more than 0 s"),
        ("stall_timeout = 0", "stall_timeout_s = 0: write more than 0 s"),
        ("ttl = inf", "ttl_s = inf"),
        ("ttl = nan", "ttl_s = nan"),
        ("ttl = true", "ttl_s = True"),
        ("publish = []", "publish_s = []"),
        ("max_attempts = 1.5", "max_attempts = 1.5: write a whole number"),
        ("max_attempts = true", "max_attempts = True: write a whole number"),
        ("max_attempts = -1", "max_attempts = -1: write a whole number, 1 or more"),
        ("max_attempts_without_progress = 0", "max_attempts_without_progress = 0"),
        ("session_limit = 0", "session_limit_s = 0: write more than 0 s"),
        ("keep_last = 0", "keep_last = 0: write a whole number, 1 or more"),
        ('keep_every = "often"', "keep_every = 'often'"),
        ('max_attempts_without_progress = "few"', "max_attempts_without_progress = 'few'"),
        ("hosts = []", "hosts = []: write a list of host names"),
        ('hosts = "a,,b"', "hosts = 'a,,b': write a list of host names"),
        ("hosts = 3", "hosts = 3: write a list of host names"),
        ("snapshot_time_share = -0.1", "snapshot_time_share = -0.1: write a share"),
        ('snapshot_time_share = "much"', "snapshot_time_share = 'much': write a share"),
        ("snapshot_time_share = true", "snapshot_time_share = True: write a share"),
        ("job_timeout = 0", "job_timeout_s = 0: write more than 0 s"),
        ('job_install = "git+https://u:p@h/x"', "job_install (pyproject.toml) holds a password"),
        ("bundle = 3", "bundle = 3: write a list of file patterns"),
        ("job_secrets = ['']", "job_secrets = ['']: write a list of variables"),
        ("tll = 10", "unknown key 'tll'"),
        ('chaos = "local.after:1"', "unknown key 'chaos'"),
        ("ttl = 5\nheartbeat = 2", "ttl = 5 s is less than three heartbeats of 2 s"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, f"[tool.qcity]\n{line}\n")
    with pytest.raises(UsageError) as caught:
        load(tmp_path, environ={})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_wrong_variable_and_a_wrong_argument_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_attempts = 'many'"):
        load(tmp_path, environ={"QCITY_MAX_ATTEMPTS": "many"})
    with pytest.raises(UsageError, match="heartbeat_s = 'x'"):
        load(tmp_path, {"heartbeat": "x"}, {})
    with pytest.raises(UsageError, match="no setting is named 'tlt'"):
        load(tmp_path, {"tlt": 3}, {})
    with pytest.raises(UsageError, match="no setting is named 'origin'"):
        load(tmp_path, {"origin": {}}, {})


def test_chaos_comes_from_the_environment_alone(tmp_path: Path) -> None:
    assert load(tmp_path, environ={"QCITY_CHAOS": "local.after:1"}).chaos == "local.after:1"


@pytest.mark.parametrize("content", [b"[tool.qcity", b"x = '\xff'"])
def test_a_broken_pyproject_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pyproject.toml").write_bytes(content)
    with pytest.raises(UsageError, match=r"pyproject\.toml is not valid TOML"):
        find_project(tmp_path)


def test_the_nearest_table_is_the_project(tmp_path: Path) -> None:
    write(tmp_path, '[project]\nname = "outer thing"\n[tool.qcity]\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner, '[project]\nname = "no table here"\n')
    project = find_project(inner)
    assert (project.root, project.name) == (tmp_path, "outer-thing")
    assert str(tmp_path / "pyproject.toml") in project.evidence


def test_a_git_root_ends_the_search(tmp_path: Path) -> None:
    write(tmp_path, "[tool.qcity]\n")
    root = tmp_path / "my repo"
    (root / ".git").mkdir(parents=True)
    project = find_project(root)
    assert (project.root, project.name, project.table) == (root, "my-repo", {})
    assert "git repository" in project.evidence


def test_elsewhere_the_working_directory_is_the_project(tmp_path: Path) -> None:
    project = find_project(tmp_path)
    assert (project.root, project.evidence) == (tmp_path, "the working directory")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("90s", 90),
        ("2m", 120),
        (" 1.5h ", 5400),
        ("250ms", 0.25),
        ("1 d", 86400),
    ],
)
def test_seconds(value: object, expected: float) -> None:
    assert seconds(value, name="x") == expected


@pytest.mark.parametrize("value", ["", "s", "-1", "1e3", "1 week", "1h30m", None, True, [], float("nan")])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(UsageError, match=r"x = .*: write seconds"):
        seconds(value, name="x")


def test_a_store_on_the_hub_has_a_slower_pace(tmp_path: Path) -> None:
    settings = load(tmp_path, {"store": "hf://user/runs"}, {})
    assert (settings.ttl_s, settings.heartbeat_s, settings.publish_s) == (300.0, 60.0, 60.0)
    assert settings.origin["ttl_s"] == "default for hf:// stores"
    slower = load(tmp_path, {"store": "hf://user/runs", "publish": "10m"}, {})
    assert slower.publish_s == 600.0


def test_huggingface_co_takes_a_commit_a_minute(tmp_path: Path) -> None:
    hasty: dict[str, object] = {"store": "hf://user/runs", "publish": 1, "heartbeat": 1, "ttl": "10m"}
    settings = load(tmp_path, hasty, {})
    assert (settings.publish_s, settings.heartbeat_s) == (60.0, 60.0)
    assert "huggingface.co" in settings.origin["publish_s"]
    with pytest.raises(UsageError, match="three heartbeats"):
        load(tmp_path, {**hasty, "ttl": 10}, {})
    for environ, store in (
        ({"HF_ENDPOINT": "http://127.0.0.1:80"}, "hf://user/runs"),
        ({}, "hf://user/runs?endpoint=http%3A%2F%2F127.0.0.1"),
        ({}, "hf://user/runs?endpoint=https%3A%2F%2Fnothuggingface.co"),
    ):
        settings = load(tmp_path, {**hasty, "store": store}, environ)
        assert (settings.publish_s, settings.heartbeat_s) == (1.0, 1.0)


def test_sizes(tmp_path: Path) -> None:
    for text, size in (("50GB", 50 * 10**9), ("1.5 tb", 1_500_000_000_000), (123, 123), ("7", 7)):
        assert load(tmp_path, {"storage_budget": text}, {}).storage_budget == size
    for wrong in ("much", "0", "-1GB", "5 GiB"):
        with pytest.raises(UsageError, match="storage_budget"):
            load(tmp_path, {"storage_budget": wrong}, {})


def test_none_is_a_word_for_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"QCITY_TRACKING": "none", "QCITY_JOB_INSTALL": "None"})
    assert (settings.tracking, settings.job_install) == ("", "")
    write(tmp_path, "[tool.qcity]\ntracking = ''\nbundle = []\njob_timeout = '12h'\n")
    settings = load(tmp_path, environ={})
    assert (settings.tracking, settings.bundle, settings.job_timeout_s) == ("", (), 43_200)


def test_a_job_installs_this_very_version(tmp_path: Path) -> None:
    assert load(tmp_path, environ={}).job_install == f"qcity-nb[local]=={__version__}"

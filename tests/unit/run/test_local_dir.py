"""The local directory is this user's alone: what lies there is unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb import settings
from qcity_nb.cli.doctor import _local
from qcity_nb.errors import UsageError
from qcity_nb.run.local_dir import PRIVATE, find_problem, prepare
from qcity_nb.sidecar import start as sidecar


@pytest.fixture
def umask() -> Iterator[None]:
    """That of a user with a private group."""
    before = os.umask(0o002)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_a_umask_for_a_group_makes_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / "a/local"
    prepare(folder)
    prepare(folder)
    assert [mode(folder / name) for name in PRIVATE] == [0o700, 0o700]


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("bits", [0o770, 0o707, 0o720])
def test_a_folder_that_others_can_write_to_is_refused(name: str, bits: int, tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / name).chmod(bits)
    with pytest.raises(UsageError, match=f"{name} can be written by other users.*chmod go-w .*local_dir") as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / name).chmod(0o700)
    prepare(tmp_path)


@pytest.mark.parametrize(("bits", "is_refused"), [(0o777, True), (0o1777, False), (0o775, False), (0o755, False)])
def test_a_directory_for_everybody_needs_the_sticky_bit(bits: int, is_refused: bool, tmp_path: Path) -> None:
    prepare(tmp_path)
    tmp_path.chmod(bits)
    assert bool(find_problem(tmp_path)) is is_refused


@pytest.mark.parametrize("name", ["", *PRIVATE])
def test_another_users_folder_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / "local"
    prepare(local)
    path = local / name
    if os.getuid() == 0:
        os.chown(path, 12345, -1)
    else:
        theirs = path.stat().st_ino
        real = Path.stat

        def stat(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            result = real(self, follow_symlinks=follow_symlinks)
            changed = [*list(result)[:4], 12345, *list(result)[5:]]
            return os.stat_result(changed) if result.st_ino == theirs else result

        monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(UsageError, match=r"belongs to another user.*chown.*another `local_dir`"):
        prepare(local)


def test_an_attempt_does_not_start_and_doctor_shows_why(tmp_path: Path) -> None:
    attempt = settings.load(tmp_path, environ={})
    prepare(attempt.local_dir)
    (attempt.local_dir / "runs").chmod(0o777)
    with pytest.raises(UsageError, match="chmod go-w"):
        sidecar.spawn(sidecar.config_for(attempt, run="r-1", attempt="r-1-a", host="here"))
    findings = [finding for finding in _local(attempt) if finding.verdict == "wrong"]
    assert len(findings) == 1
    assert "chmod go-w" in findings[0].detail

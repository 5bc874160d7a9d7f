"""Where the executed notebook is written, and what is left alone."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from papermill.iorw import local_file_io_cwd

from qcity_nb.engine.notebook_writer import NotebookWriter
from qcity_nb.engine.paths import local_path


def keeper(folder: Path, output: str) -> NotebookWriter:
    mailbox = SimpleNamespace(executed=folder / "mailbox/executed.ipynb", path=folder / "mailbox")
    context: Any = SimpleNamespace(mailbox=mailbox, output=None, process=None)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    return NotebookWriter(book, context, output_path=output, progress_bar=False)


def test_paths_start_where_papermill_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("called", "cwd"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "called")
    with local_file_io_cwd():
        monkeypatch.chdir(tmp_path / "cwd")
        assert local_path("a.ipynb") == tmp_path / "called/a.ipynb"
        keeper(tmp_path, "out.ipynb").save()
    assert (tmp_path / "called/out.ipynb").exists()
    assert list((tmp_path / "cwd").iterdir()) == []


@pytest.mark.parametrize("path", ["-", "s3://bucket/a.ipynb", "https://host/a.ipynb", None])
def test_other_places_are_papermill_s(path: str | None) -> None:
    assert local_path(path) is None


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """As does /dev/null, which as root could be replaced by a file."""
    pipe = tmp_path / "pipe.ipynb"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    keeper(tmp_path, str(pipe)).save()
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert '"nbformat"' in got[0]


def test_a_link_s_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = tmp_path / "real/out.ipynb"
    file.write_text("old")
    file.chmod(0o640)
    link = tmp_path / "out.ipynb"
    link.symlink_to(file)
    keeper(tmp_path, str(link)).save()
    assert link.is_symlink()
    assert '"nbformat"' in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_folder_that_is_not_there_is_papermill_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="output folder"):
        keeper(tmp_path, str(tmp_path / "typo/out.ipynb")).save()


def test_a_write_that_is_cut_off_leaves_the_old_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper(tmp_path, str(tmp_path / "out.ipynb")).save()
    before = (tmp_path / "out.ipynb").read_text()
    whole = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        whole(path, data[: len(data) // 2])
        raise KeyboardInterrupt

    later = keeper(tmp_path, str(tmp_path / "out.ipynb"))
    later.nb.cells[0].source = "2"
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        later.save()
    for name in ("out.ipynb", "mailbox/executed.ipynb"):
        assert (tmp_path / name).read_text() == before

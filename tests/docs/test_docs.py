"""README and docs keep their word: blocks run or say why not, links resolve, named commands exist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from page_text import Block, anchors, blocks, commands, links, pages

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
# Commands are checked once there is a README to promise them.
PROMISING = PAGES if (ROOT / "README.md").read_text(encoding="utf-8").strip() else []
RUN = {"python", "bash"}
FIGURES = {"", "text", "toml", "json", "yaml", "ini", "diff", "dockerfile", "mermaid"}
BLOCK_S = 100
QCITY = "import sys; from qcity_nb.cli import main; sys.argv[0] = 'qcity'; sys.exit(main())"


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def complaints(text: str) -> list[str]:
    """Blocks that neither run nor say why not."""
    found = []
    for block in blocks(text):
        if block.language not in RUN | FIGURES:
            found.append(f"line {block.line}: write python, bash, or one of {sorted(FIGURES)}, not {block.language!r}")
        if block.comment.startswith("not run") and len(block.reason_not_run) < 10:
            found.append(f"line {block.line}: `<!-- not run: reason -->` needs a reason")
    return found


def programs(text: str) -> list[tuple[Block, list[str]]]:
    """The blocks to run, each with its command; after `<!-- continues -->` the Python before it runs too."""
    found, before = [], ""
    for block in blocks(text):
        if block.language not in RUN or block.reason_not_run:
            continue
        if block.language == "bash":
            found.append((block, ["bash", "-euo", "pipefail", "-c", block.source]))
        else:
            before = before + block.source if block.comment == "continues" else block.source
            found.append((block, [sys.executable, "-c", before]))
    return found


def run(text: str, folder: Path, *, tracking: str = "") -> list[str]:
    """Run a page's blocks in ``folder``, in order; what went wrong, one line each.

    Args:
        tracking: where metrics go instead of the default.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("QCITY_", "MLFLOW_", "JPY_"))}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    env["PYTHONPATH"] = str(folder)
    env["MPLBACKEND"] = "agg"
    env |= {"QCITY_TRACKING": tracking} if tracking else {}
    failures = []
    for block, command in programs(text):
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BLOCK_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            failures.append(f"line {block.line}: still running after {BLOCK_S} s")
            continue
        if done.returncode:
            failures.append(f"line {block.line}: exit code {done.returncode}\n{done.stdout[-2000:]}")
    return failures


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere in the checkout. Addresses elsewhere are not asked."""
    found = []
    for link in links(text):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            found.append(f"{link}: no such file")
        elif parts.fragment and target.suffix == ".md":
            known = anchors(text if target == page else read(target))
            if parts.fragment.lower() not in known:
                found.append(f"{link}: no such heading; there are {sorted(known)}")
    return found


@cache
def help_of(command: str) -> str | None:
    """The help of `qcity COMMAND` (of `qcity` itself if empty); None where there is no such command."""
    words = [sys.executable, "-c", QCITY, *([command] if command else []), "--help"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def unknown(text: str) -> list[str]:
    """Commands and options that a page names and `qcity --help` does not."""
    found = []
    for words in commands(text):
        command = next((word for word in words[1:2] if not word.startswith("-")), "")
        if command and not command.isupper():
            told = help_of(command)
            if told is None:
                found.append(f"qcity {command}: no such command")
                continue
        else:
            told = help_of("") or ""
        for option in (word.partition("=")[0] for word in words[1:] if word.startswith("-")):
            if option not in told.replace(",", " ").replace("[", " ").replace("]", " ").split():
                found.append(f"{' '.join(words)}: no option {option}")
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what git has, or would have: blocks may write into it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "checkout"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_runs_or_says_why_not(page: Path) -> None:
    assert not complaints(read(page))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_blocks_run(page: Path, checkout: Path) -> None:
    # The README's runs have MLflow, as a reader's have; on the other pages its import would cost seconds for each run.
    failures = run(read(page), checkout, tracking="" if page.name == "README.md" else f"jsonl://{checkout}/tracked")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_resolve(page: Path) -> None:
    assert not broken(page, read(page))


@pytest.mark.parametrize("page", PROMISING, ids=[str(page.relative_to(ROOT)) for page in PROMISING])
def test_named_commands_exist(page: Path) -> None:
    assert not unknown(read(page))


PLANTED = """\
# A page

See [there](gone.md), [here](#a-page), [nowhere](#b) and `qcity fly --far`.

<!-- not run: -->
```bash
true
```

```console
$ qcity ps
```

```python
x = 1
```

<!-- continues -->
```python
assert x == 2
```

```python
x
```

<!-- not run: it would fail, and this says so -->
```bash
qcity run \\
    a.ipynb --on local  # a comment
```

```bash
false; true
```
"""


def test_planted_faults_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PLANTED, encoding="utf-8")
    assert [line.partition(":")[0] for line in complaints(PLANTED)] == ["line 6", "line 10"]
    failed = {line.partition(":")[0] for line in run(PLANTED, tmp_path)}
    assert failed == {"line 19", "line 23", "line 33"}
    assert [line.partition(":")[0] for line in broken(page, PLANTED)] == ["gone.md", "#b"]
    assert list(commands(PLANTED)) == [["qcity", "fly", "--far"], ["qcity", "run", "a.ipynb", "--on", "local"]]


def test_other_programs_arguments_are_no_commands_of_ours() -> None:
    text = "`papermill --engine qcity in.ipynb`, `pip install x && qcity demo`, `!qcity ps`, `qcity_nb`, `qcity`"
    assert list(commands(text)) == [["qcity", "demo"], ["qcity", "ps"], ["qcity"]]


def test_an_unclosed_block_is_refused() -> None:
    with pytest.raises(ValueError, match="line 1: the block is not closed"):
        blocks("```python\nx = 1\n")

"""The emulator's git against git itself: names of objects, trees, patterns, names of branches."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb.testing.emulators.hub import git, objects, patterns
from qcity_nb.testing.emulators.hub.database import Database
from qcity_nb.testing.emulators.hub.git import EMPTY_TREE


def run(folder: Path, *words: str, data: bytes | None = None, check: bool = True) -> str:
    command = ["git", "-c", "user.name=user", "-c", "user.email=user@users.noreply.huggingface.co", *words]
    done = subprocess.run(command, cwd=folder, input=data, capture_output=True, timeout=60, check=check)
    return done.stdout.decode()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    run(folder, "init", "-q")
    return folder


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    import qcity_nb.testing.emulators.hub.routes  # noqa: F401 (all tables)

    made = Database(tmp_path / "hub.sqlite")
    yield made
    made.close()


def test_blobs(checkout: Path) -> None:
    for data in (b"", b"x", bytes(range(256)) * 10):
        assert git.blob_oid(data) == run(checkout, "hash-object", "--stdin", data=data).strip()


def test_trees_and_commits(checkout: Path, database: Database, tmp_path: Path) -> None:
    # "a", "a.b" and "a/": git sorts a directory as if its name ended with a slash.
    files = {"a.b": b"1", "a/x": b"2", "a0": b"3", "d/e/f.txt": b"4", "ünï/文": b"5", "z": b""}
    for path, data in files.items():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_bytes(data)
    run(checkout, "add", "-A")
    with database.write() as db:
        changes: dict[str, str | None] = {
            path: objects.add_blob(db, tmp_path, data).oid for path, data in files.items()
        }
        tree = objects.edit_tree(db, EMPTY_TREE, changes)
        assert tree == run(checkout, "write-tree").strip()
        assert {entry.name for entry in objects.walk(db, tree, recursive=True) if not entry.is_tree} == set(files)
    message, when = "title\n\nbody", "1700000000 +0000"
    words = ["-c", "core.commentChar=;", "commit", "-q", "-m", message]
    env = ["env", f"GIT_AUTHOR_DATE={when}", f"GIT_COMMITTER_DATE={when}", "git"]
    subprocess.run(
        [*env, "-c", "user.name=user", "-c", "user.email=user@users.noreply.huggingface.co", *words],
        cwd=checkout,
        check=True,
        timeout=60,
    )
    # `git commit` ends a message with a newline, the Hub's own commits do not need one.
    assert (
        git.commit_oid(tree, None, "user", 1_700_000_000, message + "\n") == run(checkout, "rev-parse", "HEAD").strip()
    )
    assert run(checkout, "rev-parse", "HEAD^{tree}").strip() == tree
    assert run(checkout, "hash-object", "-t", "tree", "--stdin", data=b"").strip() == EMPTY_TREE


@pytest.mark.parametrize("seed", range(6))
def test_edits_of_trees(database: Database, tmp_path: Path, seed: int) -> None:
    """Any sequence of edits ends with the tree that its files make at once."""
    chance = random.Random(seed)
    names = [f"{a}/{b}" for a in "abc" for b in ("x", "y", "d/p", "d/q")] + ["top", "a.txt"]
    files: dict[str, str] = {}
    with database.write() as db:
        known = [objects.add_blob(db, tmp_path, bytes([number])).oid for number in range(4)]
        tree = EMPTY_TREE
        for _ in range(30):
            changes: dict[str, str | None] = {
                name: chance.choice([*known, None]) for name in chance.sample(names, chance.randint(1, 6))
            }
            tree = objects.edit_tree(db, tree, changes)
            for name, oid in changes.items():
                if oid is None:
                    files.pop(name, None)
                else:
                    files[name] = oid
            assert tree == objects.edit_tree(db, EMPTY_TREE, dict(files))
            assert {each.name: each.oid for each in objects.walk(db, tree, recursive=True) if not each.is_tree} == files
            for name in names:
                entry = objects.entry_at(db, tree, name)
                assert (entry.oid if entry else None) == files.get(name)


def test_pointers() -> None:
    oid = "ab" * 32
    assert git.parse_pointer(git.pointer(oid, 12)) == (oid, 12)
    for data in (b"", b"text", git.pointer(oid, 12)[:-1], git.pointer(oid, 12) + b"more\n"):
        assert git.parse_pointer(data) is None


NAMES = ["main", "run/x", "a.b", "a b", "a..b", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "/a", "a/", "a//b", ".a"]
NAMES += ["a/.b", "a.lock", "a.lock/b", "a.", "a@{b", "a@b", "-a", "ünï", "a\x7fb", "", "v1.0-rc+1"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_branches(checkout: Path, name: str) -> None:
    words = ["git", "check-ref-format", "--branch", name]
    known = subprocess.run(words, cwd=checkout, capture_output=True, timeout=60, check=False).returncode == 0
    assert git.is_ref_name(name) == known


IGNORE = """\
# a comment
*.tmp
!keep.tmp
logs/
/top.txt
deep/**/x.bin
a/*/c
**/any.md
d[0-9].txt
e?.txt
inner/
!inner/yes.txt
\\#hash
"""
PATHS = ["a.tmp", "x/y.tmp", "keep.tmp", "x/keep.tmp", "logs/a", "x/logs/b/c", "logs.txt", "top.txt", "x/top.txt"]
PATHS += [
    "deep/x.bin",
    "deep/a/b/x.bin",
    "deep/a/y.bin",
    "a/b/c",
    "a/b/d/c",
    "any.md",
    "p/q/any.md",
    "d1.txt",
    "dx.txt",
]
PATHS += ["e1.txt", "e12.txt", "inner/yes.txt", "inner/no.txt", "#hash", "# a comment", "logs"]


@pytest.mark.parametrize("path", PATHS)
def test_ignored_as_git_ignores(checkout: Path, path: str) -> None:
    (checkout / ".gitignore").write_text(IGNORE)
    known = run(checkout, "check-ignore", "--no-index", "-v", "-n", path, check=False)
    pattern = known.partition("\t")[0].split(":", 2)[2]
    assert patterns.is_ignored(IGNORE, path) == (bool(pattern) and not pattern.startswith("!"))


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_lfs_as_git_has_it(checkout: Path, kind: str) -> None:
    (checkout / ".gitattributes").write_text(
        patterns.ATTRIBUTES[kind] + "special.bin -filter\n/only/top.x filter=lfs\n"
    )
    text = (checkout / ".gitattributes").read_text()
    paths = ["a.bin", "x/y/z.safetensors", "saved_model/a/b", "saved_model/b", "x/saved_model/a/b", "events.tfevents.1"]
    paths += ["a.txt", "a.lfs.x", "a.tar.gz", "photo.jpg", "special.bin", "x/special.bin", "only/top.x", "x/only/top.x"]
    for path in paths:
        known = run(checkout, "check-attr", "filter", "--", path).strip().rpartition(": ")[2]
        assert patterns.is_lfs(text, path) == (known == "lfs"), path

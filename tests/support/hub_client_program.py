"""A program for a process of its own: what a client does to a Hub, all public calls, and what it must see.

python hub_client_program.py FOLDER, with HF_ENDPOINT and HF_TOKEN set; Xet is on or off as its environment says.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd as Add
from huggingface_hub import CommitOperationCopy as Copy
from huggingface_hub import CommitOperationDelete as Delete
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._runtime import is_xet_available

CONTENTS = {
    "random.bin": os.urandom(300_000),
    "floats.bin": b"".join(struct.pack("<f", number * 0.001) for number in range(60_000)),
    "text.bin": b"the same words again and again, " * 9_000,
    "zeros.bin": bytes(200_000),
    "mixed.bin": os.urandom(100_000) + bytes(100_000) + os.urandom(50_000),
    "small.bin": b"s",
    "empty.bin": b"",
}


def main(folder: Path) -> None:
    api = HfApi()
    assert api.whoami()["name"] == "user"
    repo = api.create_repo("r", private=True).repo_id
    assert api.repo_exists(repo)
    api.create_branch(repo, branch="run/x")
    head = api.repo_info(repo, revision="run/x").sha
    assert head == api.model_info(repo).sha

    additions: list[Add | Copy | Delete] = [Add(f"made/{name}", content) for name, content in CONTENTS.items()]
    first = api.create_commit(
        repo,
        [*additions, Add("plain.txt", b"text")],
        commit_message="many",
        revision="run/x",
        parent_commit=head,
    )
    content = os.urandom(50_000)
    early = Add("early.bin", content)
    api.preupload_lfs_files(repo, [early], revision="run/x")
    operations: list[Add | Copy | Delete] = [
        early,
        Delete("plain.txt"),
        Copy("made/text.bin", "copied.bin", src_revision="run/x"),
    ]
    second = api.create_commit(repo, operations, commit_message="more", revision="run/x", parent_commit=first.oid)
    (folder / "up" / "deep").mkdir(parents=True)
    (folder / "up" / "a.bin").write_bytes(CONTENTS["mixed.bin"] + b"changed")
    (folder / "up" / "deep" / "b.txt").write_bytes(b"b")
    api.upload_folder(repo_id=repo, folder_path=folder / "up", path_in_repo="folder", revision="run/x")
    api.upload_file(path_or_fileobj=folder / "up" / "a.bin", path_in_repo="file.bin", repo_id=repo, revision="run/x")

    expected = {f"made/{name}": data for name, data in CONTENTS.items()}
    expected |= {"early.bin": content, "copied.bin": CONTENTS["text.bin"], "folder/deep/b.txt": b"b"}
    expected |= dict.fromkeys(["folder/a.bin", "file.bin"], CONTENTS["mixed.bin"] + b"changed")
    entries = api.list_repo_tree(repo, recursive=True, revision="run/x")
    tree = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    assert {*expected, ".gitattributes"} == set(tree)
    assert sorted(api.list_repo_files(repo, revision="run/x")) == sorted({*expected, ".gitattributes"})
    for path, data in expected.items():
        assert tree[path].size == len(data)
        has_xet = getattr(tree[path], "xet_hash", None) is not None
        if hasattr(tree[path], "xet_hash"):  # which client 0.36 does not have
            assert has_xet == (is_xet_available() and path.endswith(".bin") and bool(data)), path
    snapshot = Path(api.snapshot_download(repo, revision="run/x", cache_dir=folder / "cache"))
    for path, data in expected.items():
        assert (snapshot / path).read_bytes() == data, path
    file = api.hf_hub_download(repo, "made/mixed.bin", revision=first.oid, local_dir=folder / "here")
    assert Path(file).read_bytes() == CONTENTS["mixed.bin"]
    metadata = get_hf_file_metadata(hf_hub_url(repo, "early.bin", revision="run/x"), token=os.environ["HF_TOKEN"])
    assert metadata.size == len(content)
    assert len(api.get_paths_info(repo, ["early.bin", "gone"], revision="run/x", expand=True)) == 1
    assert api.file_exists(repo, "early.bin", revision="run/x")

    # The same contents in another repository: nothing is new, and each repository has its own.
    other = api.create_repo("other").repo_id
    api.create_commit(other, [Add("again.bin", CONTENTS["random.bin"])], commit_message="again")
    if is_xet_available() and "src_repo_id" in Copy.__dataclass_fields__:  # which client 0.36 and 1.27 do not have
        copy = Copy("made/text.bin", "taken.bin", src_repo_id=repo, src_repo_type="model", src_revision="run/x")
        api.create_commit(other, [copy], commit_message="copied from elsewhere")
    for entry in api.list_repo_files(other):
        assert Path(api.hf_hub_download(other, entry, cache_dir=folder / "other")).stat().st_size

    api.create_tag(repo, tag="v1", revision="run/x")
    titles = [entry.title for entry in api.list_repo_commits(repo, revision="run/x")]
    assert titles[-3:] == ["more", "many", "initial commit"]
    assert second.oid in {entry.commit_id for entry in api.list_repo_commits(repo, revision="run/x")}
    api.super_squash_history(repo, branch="run/x")
    assert len(api.list_repo_commits(repo, revision="run/x")) == 1
    refs = api.list_repo_refs(repo)
    assert ({entry.name for entry in refs.branches}, {entry.name for entry in refs.tags}) == ({"main", "run/x"}, {"v1"})
    files = {entry.filename: entry for entry in api.list_lfs_files(repo)}
    assert files["early.bin"].size == len(content)
    api.permanently_delete_lfs_files(repo, [files["early.bin"]])
    assert not api.file_exists(repo, "early.bin", revision="run/x")
    api.delete_branch(repo, branch="run/x")
    api.delete_repo(repo)
    assert not api.repo_exists(repo)
    sys.stdout.write("xet\n" if is_xet_available() else "lfs\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

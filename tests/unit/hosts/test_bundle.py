"""The project's bundle: what goes along, what never does, and that nothing else comes out of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from qcity_nb import settings
from qcity_nb.cli import templates
from qcity_nb.data import Data
from qcity_nb.errors import CheckpointCorrupt, UsageError
from qcity_nb.hosts import bundle


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=root, check=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "p"
    root.mkdir()
    git(root, "init", "-q")
    write(
        root,
        {"pyproject.toml": "[tool.qcity]\n", "lib/a.py": "a = 1\n", "run.sh": "true\n", "big.bin": "x", "u/ü.txt": "ü"},
    )
    (root / "run.sh").chmod(0o755)
    git(root, "add", ".")
    write(root, {"untracked.txt": "no", "data/x.csv": "1,2\n"})
    return root


def test_what_git_tracks_goes_along_and_comes_out(project: Path, tmp_path: Path) -> None:
    packed = bundle.pack(project)
    assert packed.files == ("big.bin", "lib/a.py", "pyproject.toml", "run.sh", "u/ü.txt")
    assert packed.left_out == ()
    out = tmp_path / "out"
    assert sorted(bundle.unpack(packed.name, packed.data, out)) == list(packed.files)
    for name in packed.files:
        assert (out / name).read_bytes() == (project / name).read_bytes()
    assert os.access(out / "run.sh", os.X_OK)
    assert not os.access(out / "lib/a.py", os.X_OK)


def test_the_same_files_have_the_same_name(project: Path) -> None:
    first = bundle.pack(project)
    os.utime(project / "run.sh", (1, 1))
    assert bundle.pack(project) == first
    (project / "lib/a.py").write_text("a = 2\n")
    assert bundle.pack(project).name != first.name


def test_patterns_take_more(project: Path) -> None:
    assert "data/x.csv" in bundle.pack(project, ["data/*"]).files
    assert "untracked.txt" in bundle.pack(project, ["**/*.txt"]).files
    for wrong in ("/etc/*", "", "**.x**/"):
        with pytest.raises(UsageError, match="bundle names"):
            bundle.pack(project, [wrong])


SECRETS = (
    *(".env", "sub/.env.local", ".netrc", "id_rsa", "id_ed25519.pub", "server.key", "cert.pem", "kaggle.json"),
    *("client_secret_1.json", "service_account.json", ".dvc/config.local", "SECRETS.toml", ".pypirc", "prod.env"),
    *("hf_token", "token.txt", ".kube/config", "application_default_credentials.json", "gh_token.txt", "token.json"),
    *(".ssh/config", ".aws/config", "deploy/.docker/config.json", "my-credentials.yaml", "openai_api_key.txt"),
    *("terraform.tfstate", "wandb.token", "PASSWORD.txt", ".pgpass", "vpn.ovpn", "secret.py", "secrets/a.txt"),
)
HARMLESS = {
    **dict.fromkeys((".env.example", "tokenizer.py", "keys.py", "monkey.txt", "tokenizer.json", "tokens.txt"), "x"),
    **dict.fromkeys(("vocab/token_map.json", "models/keyboard.py", "secretary.py", "auth.py"), "x"),
    "readme.md": "export HF_TOKEN=hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nghp_XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\n",
    "docs.txt": "-----BEGIN PRIVATE KEY-----\n...\n",
    "hashes.txt": "d41d8cd98f00b204e9800998ecf8427e 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n",
    "code.py": "task-AKIAIOSFODNN7EXAMPLEX, sk-learn-is-not-a-key-but-a-library, hf_hub_download, eyJ",
    "image.ipynb": '{"image/png": "iVBORw0KGgoAAAANSUhEUgAAAKIAAAkiAIza+AKIAIOSFODNN7EXAMPLE/abc=="}',
}
_BODY = "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5zA7bC9dE1fG3hI5j"
TOKENS = {
    "a Hugging Face token": f"login('hf_{_BODY[:34]}')",
    "a GitHub token": f"https://ghp_{_BODY[:36]}@github.com/a/b",
    "a GitLab token": f"glpat-{_BODY[:20]}",
    "an AWS access key": "aws_access_key_id = AKIAQWERTYUIOP123456",
    "a Google API key": f'key="AIza{_BODY[:35]}"',
    "a Slack token": f"xoxb-{_BODY[:24]}",
    "an API key": f"openai.api_key = 'sk-{_BODY[:48]}'",
    "a package registry's token": f"//registry/:_authToken=npm_{_BODY[:36]}",
    "a JSON web token": f"eyJhbGciOiJIUzI1NiJ9.eyJ{_BODY[:20]}.{_BODY[:30]}",
    "a private key": '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQ"}',
}


@pytest.mark.parametrize("name", SECRETS)
def test_what_looks_like_a_secret_stays_here_and_is_named(project: Path, name: str) -> None:
    write(project, {name: "hunter2"})
    git(project, "add", "-f", name)
    packed = bundle.pack(project, ["**/*", "**/.*", ".dvc/*"])
    assert name not in packed.files
    advice = f'{name} (by its name it may hold a secret; if it may be sent, name it: bundle = ["{name}"])'
    assert advice in packed.left_out
    assert b"hunter2" not in gzip.decompress(packed.data)
    assert name in bundle.pack(project, [name]).files, "the user has decided"


def test_what_only_looks_like_a_secret_goes_along(project: Path) -> None:
    write(project, dict(HARMLESS))
    git(project, "add", "-f", ".")
    packed = bundle.pack(project)
    assert set(HARMLESS) <= set(packed.files), packed.left_out


@pytest.mark.parametrize("kind", TOKENS)
def test_a_credential_in_a_file_is_named(project: Path, kind: str) -> None:
    write(project, {"lib/config.py": f"# settings\n{TOKENS[kind]}\n"})
    git(project, "add", ".")
    packed = bundle.pack(project)
    advice = f'lib/config.py (it seems to hold {kind}; if it may be sent, name it: bundle = ["lib/config.py"])'
    assert packed.left_out == (advice,)
    assert "lib/config.py" in bundle.pack(project, ["lib/config.py"]).files


def test_the_value_of_a_secret_variable_is_in_no_file(project: Path) -> None:
    environ = {"DB_PASSWORD": "correct horse battery", "GREETING": "good morning all", "API_KEY": "short"}
    environ |= {"SSH_AUTH_SOCK": str(project / "run.sh")}
    write(project, {"lib/db.py": "connect('correct horse battery')", "lib/hi.py": "good morning all, short"})
    write(project, {"lib/path.py": str(project / "run.sh")})
    git(project, "add", ".")
    packed = bundle.pack(project, ["lib/db.py"], environ)
    assert packed.left_out == ('lib/db.py (it holds the value of DB_PASSWORD; use city.secret("DB_PASSWORD") instead)',)
    assert {"lib/hi.py", "lib/path.py"} <= set(packed.files)
    assert b"correct horse" not in gzip.decompress(packed.data)


def test_data_that_dvc_tracks_stays_here_and_its_record_goes(project: Path) -> None:
    md5 = hashlib.md5(b"1,2\n").hexdigest()
    record = f"outs:\n- md5: {md5}\n  size: 4\n  hash: md5\n  path: x.csv\n"
    write(project, {"data/x.csv.dvc": record, "data/y.csv": "mine"})
    assert set(bundle.pack(project, ["data/*"]).files) >= {"data/x.csv.dvc", "data/y.csv"}
    assert "data/x.csv" not in bundle.pack(project, ["data/*"]).files


def test_links_caches_and_our_own_folder_stay(project: Path) -> None:
    write(project, {".qcity/store/x": "1", "lib/__pycache__/a.pyc": "1", ".git/hooks/x": "1"})
    (project / "link").symlink_to("/etc/passwd")
    (project / "linked").symlink_to("/etc")
    git(project, "add", "link", "linked")
    packed = bundle.pack(project, ["**/*", ".qcity/**/*", ".git/**/*", "linked/*"])
    assert not [name for name in packed.files if name.startswith((".git/", ".qcity", "lib/__", "link"))]


def test_the_largest_stay_here_and_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LIMIT_BYTES", 3_000_000)
    write(project, {"big.bin": b"0" * 2_900_000, "bigger.bin": b"0" * 2_950_000})
    git(project, "add", ".")
    packed = bundle.pack(project)
    assert "big.bin" in packed.files
    assert [line.partition(" ")[0] for line in packed.left_out] == ["bigger.bin"]
    assert sum((project / name).stat().st_size for name in packed.files) <= 3_000_000


def test_without_git_there_is_the_project_file_and_what_patterns_name(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "a"})
    assert bundle.pack(tmp_path) == bundle.Bundle(name="", data=b"", files=(), left_out=())
    assert bundle.pack(tmp_path, ["*.txt"]).files == ("a.txt",)
    write(tmp_path, {"pyproject.toml": "[tool.qcity]\n"})
    assert bundle.pack(tmp_path).files == ("pyproject.toml",)


def test_the_digits_go_along_with_all_that_they_need(tmp_path: Path) -> None:
    templates.extract("digits", tmp_path / "p")
    config = settings.load(tmp_path / "p", environ={})
    packed = bundle.pack(config.project.root, config.bundle)
    bundle.unpack(packed.name, packed.data, tmp_path / "elsewhere" / "digits")
    assert settings.load(tmp_path / "elsewhere" / "digits", environ={}).project.name == "digits"
    assert Data(tmp_path / "elsewhere" / "digits")["data/digits.csv"].stat().st_size == 264974


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> tuple[str, bytes]:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return bundle._name(plain.getvalue()), gzip.compress(plain.getvalue())


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo("link")
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/tmp/qcity-outside"),
        tarfile.TarInfo("a/../../outside"),
        link(tarfile.SYMTYPE, "/etc/passwd"),
        link(tarfile.LNKTYPE, "../outside"),
        link(tarfile.CHRTYPE, ""),
        link(tarfile.DIRTYPE, ""),
    ],
    ids=["up", "absolute", "up-later", "symlink", "hardlink", "device", "directory"],
)
def test_nothing_but_plain_files_inside_comes_out(entry: tarfile.TarInfo, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    content = b"evil" if entry.type == tarfile.REGTYPE else b""
    name, data = archive((entry, content))
    try:
        names = bundle.unpack(name, data, folder)
    except CheckpointCorrupt:
        names = []
    # An absolute name is extracted below the folder.
    assert all((folder / each.lstrip("/")).resolve().is_relative_to(folder) for each in names)
    assert not (tmp_path / "outside").exists()
    assert not Path("/tmp/qcity-outside").exists()
    assert not [path for path in folder.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("how", ["cut", "flipped", "renamed", "rubbish", "bomb"])
def test_a_bundle_that_is_not_what_its_name_says_is_refused(
    project: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = bundle.pack(project)
    name, data = packed.name, packed.data
    if how == "cut":
        data = data[:-20]
    elif how == "flipped":
        data = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    elif how == "renamed":
        name = "project-0000000000000000.tar.gz"
    elif how == "rubbish":
        data = b"rubbish"
    else:
        monkeypatch.setattr(bundle, "_PLAIN_BYTES", 1000)
    with pytest.raises(CheckpointCorrupt, match=f"the project's bundle {name}"):
        bundle.unpack(name, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()

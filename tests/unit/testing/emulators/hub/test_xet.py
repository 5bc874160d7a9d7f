"""Xet on the Hub emulator: its formats, and the real client with hf_xet, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_world import ask, environment, run_client

from qcity_nb.testing.emulators.hub.emulator import Options
from qcity_nb.testing.emulators.hub.faults import Faults
from qcity_nb.testing.emulators.hub.server import HubServer
from qcity_nb.testing.emulators.hub.xet_format import Chunk, Malformed, chunks_of, decompress, lz4_frame, read_shard

PROGRAM = Path(__file__).parents[4] / "support" / "hub_client_program.py"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", options=Options(part_size=100_000)) as made:
        yield made


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_every_call_of_the_client(server: HubServer, tmp_path: Path, xet: bool) -> None:
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "work")],
        env=environment(server, tmp_path / "home", xet=xet),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["xet" if xet else "lfs"]), done.stderr[-4000:]


UPLOAD = """
import os, sys
from huggingface_hub import HfApi
api = HfApi()
repo = api.create_repo("r", private=True, exist_ok=True).repo_id
data = bytes(range(256)) * 1000 + {more}
api.upload_file(path_or_fileobj=data, path_in_repo="{name}", repo_id=repo)
"""
DOWNLOAD = """
from pathlib import Path
from huggingface_hub import HfApi
data = Path(HfApi().hf_hub_download("user/r", "{name}")).read_bytes()
assert data.startswith(bytes(range(256)) * 1000), data[:10]
print(len(data))
"""


@pytest.mark.parametrize(("up", "down"), [(True, False), (False, True), (True, True)])
def test_what_one_uploads_the_other_downloads(server: HubServer, tmp_path: Path, up: bool, down: bool) -> None:
    run_client(server, tmp_path / "up", UPLOAD.format(more="bytes(9000)", name="a.bin"), xet=up)
    assert run_client(server, tmp_path / "down", DOWNLOAD.format(name="a.bin"), xet=down) == "265000\n"


def test_two_processes_upload_at_once(server: HubServer, tmp_path: Path) -> None:
    """Which the client's `local://` mode cannot: its store is one process's."""
    run_client(server, tmp_path, "from huggingface_hub import HfApi; HfApi().create_repo('r')", xet=True)
    names = ["a.bin", "b.bin", "c.bin"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", UPLOAD.format(more="os.urandom(50_000)", name=name)],
            env=environment(server, tmp_path / name, xet=True),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for process in started:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 0, error.decode()[-3000:]
    for name in names:
        assert run_client(server, tmp_path / "down", DOWNLOAD.format(name=name), xet=True) == "306000\n"


def test_xet_survives_a_restart(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as server:
        run_client(server, tmp_path / "home", UPLOAD.format(more="b''", name="a.bin"), xet=True)
        port = int(server.url.rpartition(":")[2])
    with HubServer(tmp_path / "hub", port=port) as server:
        # The same home: hf_xet remembers what it stored under this address, and that is still there.
        run_client(server, tmp_path / "home", UPLOAD.format(more="b'more'", name="b.bin"), xet=True)
        for xet in (True, False):
            assert run_client(server, tmp_path / "down", DOWNLOAD.format(name="b.bin"), xet=xet) == "256004\n"


FAILS = UPLOAD + "\nraise SystemExit('it went through')\n"


@pytest.mark.parametrize("case", ["xet is off", "full", "fault"])
def test_uploads_that_are_refused(tmp_path: Path, case: str) -> None:
    options = Options(xet=case != "xet is off", storage_limit=100 if case == "full" else None)
    with HubServer(tmp_path / "hub", options=options, faults=Faults()) as server:
        if case == "fault":
            server.faults.set("storage-full", kind="xet")
        code = FAILS.format(more="b''", name="a.bin")
        with pytest.raises(AssertionError) as error:
            run_client(server, tmp_path / "home", code, xet=True)
        assert "it went through" not in str(error.value)
        listing = "from huggingface_hub import HfApi; print(HfApi().list_repo_files('user/r'))"
        assert run_client(server, tmp_path / "home", listing, xet=True) == "['.gitattributes']\n"


# --- tokens and contents


def test_tokens(server: HubServer, tmp_path: Path) -> None:
    for repo in ("r", "other"):
        ask(f"{server.url}/api/repos/create", "POST", body=b'{"name": "%b", "private": true}' % repo.encode())
    assert ask(f"{server.url}/api/models/user/r/xet-write-token/main", token=None).status == 401
    reply = ask(f"{server.url}/api/models/user/r/xet-read-token/main")
    assert reply.headers["x-xet-cas-url"] == reply.json()["casUrl"]
    assert reply.headers["x-xet-access-token"] == reply.json()["accessToken"]
    assert int(reply.headers["x-xet-token-expiration"]) == reply.json()["exp"]
    cas, token = reply.json()["casUrl"], reply.json()["accessToken"]
    xorb = f"{cas}/v1/xorbs/default/{'0' * 64}"
    assert ask(xorb, "POST", token=token, body=b"x").status == 403
    assert ask(xorb, "POST", token=None, body=b"x").status == 401
    assert ask(xorb, "POST", token=token.replace("read", "write"), body=b"x").status == 401
    write = ask(f"{server.url}/api/models/user/r/xet-write-token/main").json()["accessToken"]
    assert ask(xorb, "POST", token=write, body=b"x").status == 400
    assert ask(f"{cas}/v1/shards", "POST", token=write, body=b"x").status == 400
    run_client(server, tmp_path / "home", UPLOAD.format(more="b''", name="a.bin"), xet=True)
    hash_ = ask(f"{server.url}/user/r/resolve/main/a.bin").headers["x-xet-hash"]
    where = f"{cas}/v2/reconstructions/{hash_}"
    assert ask(where, token=token).status == 200
    stranger = ask(f"{server.url}/api/models/user/other/xet-read-token/main").json()["accessToken"]
    assert ask(where, token=stranger).status == 404


def test_a_range_of_a_reconstruction(server: HubServer, tmp_path: Path) -> None:
    run_client(server, tmp_path / "home", UPLOAD.format(more="os.urandom(700_000)", name="a.bin"), xet=True)
    headers = ask(f"{server.url}/user/r/resolve/main/a.bin").headers
    whole = ask(ask(f"{server.url}/user/r/resolve/main/a.bin").headers["location"], token=None).body
    reply = ask(headers["x-xet-refresh-route"])
    cas, token = reply.json()["casUrl"], reply.json()["accessToken"]
    where = f"{cas}/v1/reconstructions/{headers['x-xet-hash']}"
    for start, end in ((0, 10), (0, len(whole)), (300_000, 300_001), (123_456, 654_321), (len(whole) - 1, len(whole))):
        answer = ask(where, token=token, Range=f"bytes={start}-{end - 1}").json()
        content = b""
        for term in answer["terms"]:
            (fetch,) = (
                each
                for each in answer["fetch_info"][term["hash"]]
                if each["range"]["start"] <= term["range"]["start"] and term["range"]["end"] <= each["range"]["end"]
            )
            span = fetch["url_range"]
            data = ask(fetch["url"], token=None, Range=f"bytes={span['start']}-{span['end']}").body
            (tmp_path / "part").write_bytes(data)
            chunks = chunks_of(tmp_path / "part")
            first = term["range"]["start"] - fetch["range"]["start"]
            unpacked = [
                decompress(chunk, data[chunk.at + 8 : chunk.at + chunk.length])
                for chunk in chunks[first : first + term["range"]["end"] - term["range"]["start"]]
            ]
            assert sum(map(len, unpacked)) == term["unpacked_length"]
            content += b"".join(unpacked)
        skipped = answer["offset_into_first_range"]
        assert content[skipped : skipped + end - start] == whole[start:end]
    assert ask(where, token=token, Range=f"bytes={len(whole)}-").status == 416


def test_content_that_is_not_what_its_uploader_said(server: HubServer, tmp_path: Path) -> None:
    run_client(server, tmp_path / "home", UPLOAD.format(more="b'needle in it'", name="a.bin"), xet=True)
    (xorb,) = server.hub.folder.glob("xorbs/*/*")
    data = bytearray(xorb.read_bytes())
    data[data.index(b"needle")] ^= 1
    xorb.write_bytes(data)
    location = ask(f"{server.url}/user/r/resolve/main/a.bin").headers["location"]
    assert ask(location, token=None).status == 500


# --- formats


def frame(*blocks: bytes, flags: int = 0x60) -> bytes:
    return b"\x04\x22\x4d\x18" + bytes([flags, 0x40, 0]) + b"".join(blocks) + bytes(4)


def block(data: bytes, *, is_stored: bool = False) -> bytes:
    return (len(data) | (0x80000000 if is_stored else 0)).to_bytes(4, "little") + data


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (frame(), b""),
        (frame(block(b"plain", is_stored=True)), b"plain"),
        (frame(block(b"\x50plain")), b"plain"),
        (frame(block(b"\x14a\x01\x00" + b"\x10b")), b"a" * 9 + b"b"),  # a match of distance 1, 8 long
        (frame(block(b"\x32abc\x03\x00" + b"\x10!")), b"abcabcabc!"),
        (frame(block(b"\xf0\x05" + b"x" * 20)), b"x" * 20),  # 15 + 5 literals
        (frame(block(b"\x1fz\x01\x00\xff\x00" + b"\x10!")), b"z" * (1 + 4 + 15 + 255) + b"!"),
        (frame(block(b"\x30abc"), block(b"\x00\x03\x00" + b"\x10!")), b"abcabca!"),  # into the block before
    ],
)
def test_lz4(data: bytes, plain: bytes) -> None:
    assert lz4_frame(data) == plain


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\x22\x4d\x19" + bytes(20),
        frame(block(b"plain", is_stored=True))[:-6],
        frame(block(b"\x14a\x02\x00\x10b")),  # begins before the data
        frame(block(b"\x14a\x00\x00\x10b")),
        frame(block(b"\xf0")),
        frame(block(b"\x14a\x01")),
    ],
)
def test_bad_lz4(data: bytes) -> None:
    with pytest.raises(Malformed):
        lz4_frame(data)


@pytest.mark.parametrize("size", range(12))
def test_bytes_in_four_groups(size: int) -> None:
    data = bytes(range(size))
    groups = b"".join(data[offset::4] for offset in range(4))
    packed = frame(block(groups, is_stored=True)) if size else frame()
    assert decompress(Chunk(0, 8 + len(packed), 2, size), packed) == data


def test_a_chunk_of_another_length() -> None:
    with pytest.raises(Malformed, match="length that its header says"):
        decompress(Chunk(0, 11, 0, 4), b"abc")


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100, b"\1\0\0\0\0\0\0\0", b"\0\xff\0\0\0\xff\0\0abc", b"\0\1\0\0\7\1\0\0a"]
)
def test_bad_xorbs(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(Malformed):
        chunks_of(tmp_path / "x")


def test_bad_shards() -> None:
    from qcity_nb.testing.emulators.hub.xet_format import _TAG

    for data in (b"", b"x" * 200, _TAG + bytes(16), _TAG + bytes(16) + bytes(32) + b"\xff\xff\0\0" * 4):
        with pytest.raises(Malformed):
            read_shard(data)
    assert read_shard(_TAG + bytes(16) + b"\xff" * 32 + bytes(16)) == []

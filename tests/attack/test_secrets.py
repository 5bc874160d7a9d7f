"""A notebook that holds secrets in many ways, killed and resumed: no file has them, no process's command line, and the
notebook gets them again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_run import environment
from silent_world import UserProject

from qcity_nb.secrets import SecretSearch
from qcity_nb.testing.emulators.hub.server import HubServer

pytestmark = [pytest.mark.kill, pytest.mark.timeout(300)]

SECRET = "correct-Horse7battery+staple"

CELLS = [
    """
import base64, functools, logging, os, sys, types
from os import environ
import qcity_nb as qcity
city = qcity.up()
""",
    """
token = city.secret("MY_TOKEN")
copied = dict(environ)
nested = {"a": [{"b": (1, {"c": token})}]}
address = f"https://me:{token}@example.org"
raw = token.encode()
class Client:
    def __init__(self, key):
        basic = base64.b64encode(f"me:{key}".encode()).decode()
        self.headers = {"Authorization": "Bearer " + key, "Basic": "Basic " + basic}
client = Client(token)
def call(key=token):
    return len(key)
bound = functools.partial(call, token)
space = types.SimpleNamespace(inner=types.SimpleNamespace(key=token))
command = ["curl", "-H", "Authorization: Bearer " + token]
by_key = {token: 1}
fine = ["not a secret at all"]
""",
    """
state = {"n": 0}
for step in city.loop(range(4), state, every=1):
    state["n"] += call()
    city.log(n=state["n"])
    print("in the loop", token)
    if step == 2 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
""",
    """
same = [environ["MY_TOKEN"], copied["MY_TOKEN"], nested["a"][0]["b"][1]["c"], raw.decode(),
        client.headers["Authorization"][7:], space.inner.key, command[2][22:], list(by_key)[0], address[11:-12]]
assert all(each == token for each in same), len(same)
print("printed:", token)
print(f"part of a line {token} and after it", file=sys.stderr)
from IPython.display import HTML, display
display(HTML(f"<b>{token}</b>"), display_id="x")
display({"text/plain": token, "text/html": f"<i>{token}</i>"}, raw=True)
logging.warning("logged %s", token)
print("all", len(same), state["n"], call(), bound(), fine[0])
token
""",
]  # fmt: skip


def find_secret(folder: Path) -> list[str]:
    """The files below a folder that hold it, in any form that is searched for."""
    search = SecretSearch({SECRET: "it"})
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and search.name_in(path.read_bytes())
    ]


def command_lines() -> list[bytes]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return lines


def test_a_killed_notebook_gets_its_secrets_again_and_no_file_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", CELLS)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "qcity_nb.cli", "run", "train.ipynb"],
        cwd=project.folder,
        env={**environment(), "MY_TOKEN": SECRET, "TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shown = []
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None:
            shown += [line for line in command_lines() if SECRET.encode() in line]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert (project.folder / "died").exists(), "the host died in the loop"
    assert f"all 9 {4 * len(SECRET)} {len(SECRET)} {len(SECRET)} not a secret at all" in project.shown()
    assert project.shown().count("in the loop [secret MY_TOKEN]") == 4
    assert "printed: [secret MY_TOKEN]" in project.shown()
    assert shown == []
    assert SECRET not in text
    assert find_secret(tmp_path) == []
    (head,) = project.heads()
    assert head.term >= 2


def test_a_state_with_one_is_refused_before_the_first_iteration(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.write(
        "train.py",
        "import os\nimport qcity_nb as qcity\ncity = qcity.up(run='train')\n"
        "state = {'n': 0, 'headers': {'auth': 'Bearer ' + os.environ['MY_TOKEN']}}\n"
        "for step in city.loop(range(3), state):\n    print('iteration', step)\n",
    )
    code, text = project.run("train.py", MY_TOKEN=SECRET)
    assert code != 0
    assert "iteration" not in text
    line = "StateRefused: state['headers']['auth'] cannot be saved: it holds the secret MY_TOKEN"
    assert line in text
    assert SECRET not in text
    assert find_secret(tmp_path) == []
    assert os.environ.get("MY_TOKEN") is None


def test_an_error_that_quotes_one_is_shown_without_it(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", [CELLS[0], 'raise ValueError("no access with " + environ["MY_TOKEN"])'])
    code, text = project.qcity("run", "train.ipynb", MY_TOKEN=SECRET)
    assert code == 3
    assert "ValueError: no access with [secret MY_TOKEN]" in text
    assert SECRET not in text
    assert find_secret(tmp_path) == []
    (head,) = project.heads()
    _, text = project.qcity("show", head.run)
    assert "no access with [secret MY_TOKEN]" in text


def test_a_script_s_output_in_a_loop_is_kept_without_it(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    lines = ["import os", "import qcity_nb as qcity", "city = qcity.up(run='train')"]
    lines += ["for step in city.loop(range(3), {}, every=1):", "    print(os.environ['MY_TOKEN'])", "city.finish()"]
    project.write("train.py", "\n".join(lines))
    code, text = project.run("train.py", MY_TOKEN=SECRET)
    assert code == 0
    assert text.count(SECRET) == 3, "what a script prints is its own affair"
    assert find_secret(tmp_path) == []


def test_a_notebook_with_one_goes_to_no_store_elsewhere(tmp_path: Path, hub_server: HubServer) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", [CELLS[0], f"token = '{SECRET}'"])
    elsewhere = {"QCITY_STORE": f"hf://user/r?endpoint={hub_server.url}", "HF_TOKEN": "any", "MY_TOKEN": SECRET}
    code, text = project.qcity("run", "train.ipynb", **elsewhere)
    assert code == 2
    assert text.startswith("qcity: train.ipynb holds the secret MY_TOKEN, and hf://user/r")
    assert SECRET not in text
    assert find_secret(hub_server.hub.folder) == []
    code, text = project.qcity("run", "train.ipynb", MY_TOKEN=SECRET)
    assert code == 0, "it stays on this machine"


def test_a_parameter_with_one_is_refused(tmp_path: Path) -> None:
    project = UserProject(tmp_path / "mine")
    project.notebook("train.ipynb", ["key = ''"])
    file = project.folder / "train.ipynb"
    file.write_text(file.read_text().replace('"metadata": {}', '"metadata": {"tags": ["parameters"]}', 1))
    code, text = project.qcity("run", "train.ipynb", "-p", "key", SECRET, MY_TOKEN=SECRET)
    assert code == 2
    assert "a parameter holds the secret MY_TOKEN" in text
    assert SECRET not in text
    assert find_secret(tmp_path) == []

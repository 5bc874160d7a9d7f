"""A real ``mlflow server`` for the tests: leaves the caller at once, ends when the test run does.

    python mlflow_server.py DIRECTORY PID

Writes DIRECTORY/uri once the server answers, or DIRECTORY/failed; ends when process PID has gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def serve(folder: Path, pid: int) -> None:
    from qcity_nb.tracking.database import prepare

    prepare(folder / "template.db")
    shutil.copyfile(folder / "template.db", folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, env=env, cwd=folder, start_new_session=True)
    try:
        ready = False
        while is_alive(pid) and server.poll() is None:
            if not ready and answers(uri):
                ready = True
                (folder / "uri.new").write_text(uri)
                (folder / "uri.new").rename(folder / "uri")
            time.sleep(0.2)
        if server.poll() is not None and not ready:
            (folder / "failed").touch()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        if not is_alive(pid):
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    folder, pid = Path(sys.argv[1]), int(sys.argv[2])
    if os.fork():
        return  # the caller's child ends here; what follows belongs to nobody
    os.setsid()
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    try:
        serve(folder, pid)
    except BaseException:
        if folder.is_dir():
            (folder / "failed").touch()
        raise


if __name__ == "__main__":
    main()

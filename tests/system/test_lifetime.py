"""A kernel begins and ends without jupyter_client's fixed waits, and is not taken for ready, or gone, too early."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager

from qcity_nb.engine import kernel_process
from qcity_nb.engine.kernel_process import Channels, end_kernel, use_channels

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]


async def _with_kernel(use: Callable[[Any, Any], Awaitable[None]]) -> None:
    manager = use_channels(AsyncKernelManager(kernel_name="python3"))
    await manager.start_kernel(extra_arguments=["--HistoryManager.hist_file=:memory:"])
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        await use(manager, client)
    finally:
        client.stop_channels()
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        await manager.cleanup_resources()


async def _shown(client: Any, source: str) -> str:
    request, text = client.execute(source), ""
    while True:
        message = await client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        if message["content"].get("execution_state") == "idle":
            return text


@pytest.mark.parametrize("turn", range(3))
def test_all_that_the_first_cell_shows_arrives_and_no_silence_is_waited_for(
    turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_process, "SILENCE_S", 1e4)

    async def use(_: Any, client: Any) -> None:
        assert isinstance(client, Channels)
        assert await _shown(client, "for n in range(200): print(n)") == "".join(f"{n}\n" for n in range(200))

    asyncio.run(_with_kernel(use))


@pytest.mark.each_python
def test_a_kernel_that_ends_is_waited_for(tmp_path: Path) -> None:
    last = tmp_path / "last"

    async def use(manager: Any, client: Any) -> None:
        await _shown(
            client, f"import atexit, time; atexit.register(lambda: (time.sleep(0.5), open({str(last)!r}, 'w')))"
        )
        await end_kernel(manager)
        assert last.exists()
        assert not await manager.is_alive()

    asyncio.run(_with_kernel(use))


def test_a_kernel_that_does_not_end_is_killed() -> None:
    async def use(manager: Any, client: Any) -> None:
        manager.shutdown_wait_time = 1.0
        pid = int(await _shown(client, "import os, atexit, time; atexit.register(time.sleep, 600); print(os.getpid())"))
        await _shown(client, "import signal; _ = signal.signal(signal.SIGTERM, signal.SIG_IGN)")
        await end_kernel(manager)
        assert not Path("/proc", str(pid)).exists()

    asyncio.run(_with_kernel(use))


def test_without_a_pidfd_jupyter_client_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(pid: int) -> int:
        raise OSError("not on this system")

    async def use(manager: Any, client: Any) -> None:
        monkeypatch.setattr(os, "pidfd_open", refuses, raising=False)
        await end_kernel(manager)
        assert await manager.is_alive()
        await manager.shutdown_kernel()
        assert not manager.has_kernel

    asyncio.run(_with_kernel(use))


def test_other_clients_and_managers_stay_what_they_are() -> None:
    class Own(AsyncKernelManager):
        pass

    assert use_channels(Own()).client_factory is not Channels
    chosen = AsyncKernelManager()
    chosen.client_factory = kind = type("Mine", (chosen.client_factory,), {})
    assert use_channels(chosen).client_factory is kind


@pytest.mark.each_python
def test_a_kernel_that_dies_at_once_is_said_to_be_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tmp_path / "kernels/gone"
    spec.mkdir(parents=True)
    argv = [sys.executable, "-c", "raise SystemExit(3)", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "gone", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    async def run() -> None:
        manager = use_channels(AsyncKernelManager(kernel_name="gone"))
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        with pytest.raises(RuntimeError, match="died before replying"):
            await client.wait_for_ready(timeout=60)
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    asyncio.run(run())


class _Channel:
    """Gives these messages in turn; ``None``: silence."""

    def __init__(self, *messages: dict[str, Any] | None) -> None:
        self._messages = list(messages)

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        await asyncio.sleep(0)
        message = self._messages.pop(0) if self._messages else None
        if message is None:
            raise Empty
        return message

    @property
    def left(self) -> int:
        return len(self._messages)


def _message(kind: str, parent: str = "", state: str = "") -> dict[str, Any]:
    content = {"execution_state": state} if state else {}
    return {"msg_type": kind, "parent_header": {"msg_id": parent} if parent else {}, "content": content}


IDLE, STARTING = _message("status", "1", "idle"), _message("status", "", "starting")
WELCOME, REPLY = _message("iopub_welcome"), _message("kernel_info_reply", "1")
LATER = _message("stream")


@pytest.mark.parametrize(
    ("iopub", "asked", "left"),
    [
        ([STARTING, _message("status", "1", "busy"), IDLE, LATER], 1, 1),
        ([WELCOME, LATER], 1, 1),  # subscribed after the answer
        ([STARTING, _message("status", "0", "idle"), None, LATER], 1, 1),  # a kernel that says idle for nobody
        ([None, IDLE, LATER], 2, 1),  # nothing: not subscribed
        ([None, None, None, STARTING, None, LATER], 4, 1),
    ],
)
def test_it_is_ready_when_both_channels_have_spoken(iopub: list[Any], asked: int, left: int) -> None:
    heard = _Channel(*iopub)
    requests = []

    class Fake(Channels):
        shell_channel = _Channel(*[REPLY] * 10)
        iopub_channel = heard

        def kernel_info(self, *_: Any, **__: Any) -> str:
            requests.append("1")
            return "1"

        async def is_alive(self) -> bool:
            return True

        def _handle_kernel_info_reply(self, msg: Any) -> None:
            assert msg is REPLY

    began_s = time.monotonic()
    context = zmq.asyncio.Context()
    asyncio.run(Fake(context=context).wait_for_ready(timeout=60))
    context.term()
    assert time.monotonic() - began_s < 60
    assert (len(requests), heard.left) == (asked, left)

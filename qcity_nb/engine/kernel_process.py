"""Start and end of a kernel's process, without the fixed waits of jupyter_client: 0.2 s and 0.1 s.

For jupyter_client a kernel is ready once its iopub channel was silent for 0.2 s, and it checks for the end ten times a
second. Here the kernel signals both: its start by the welcome to that channel or by the ``idle`` after its first
answer, its end by its pidfd.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient  # type: ignore[attr-defined]  # the public name
from jupyter_client.manager import AsyncKernelManager

__all__ = ["Channels", "end_kernel", "use_channels", "watch_for_end"]

ANSWER_S = 1.0
"""A kernel that has not answered by then is asked again: the request may have been lost."""
SILENCE_S = 0.2
"""A kernel that sends no ``idle`` counts as idle after this silence."""


class Channels(AsyncKernelClient):
    """A kernel's channels, ready with the kernel's first answer."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel has answered, and this client has received messages on both channels.

        Args:
            timeout: seconds; ``None``: as long as the kernel lives.
        Raises:
            RuntimeError: the kernel died, or did not answer in time.
        """
        until_s = time.monotonic() + (math.inf if timeout is None else timeout)
        while not await self._is_heard():
            if not await self.is_alive():
                raise RuntimeError("Kernel died before replying to kernel_info")
            if time.monotonic() > until_s:
                raise RuntimeError(f"Kernel didn't respond in {timeout:.0f} seconds")

    async def _is_heard(self) -> bool:
        """Ask once. False: no answer, or nothing on iopub, which was not subscribed in time."""
        self.kernel_info()
        try:
            reply = await self.shell_channel.get_msg(timeout=ANSWER_S)
        except Empty:
            return False
        if reply["msg_type"] != "kernel_info_reply":
            return False
        self._handle_kernel_info_reply(reply)  # the version of its protocol
        is_heard = False
        with suppress(Empty):
            while True:
                message = await self.iopub_channel.get_msg(timeout=SILENCE_S)
                is_heard = True
                is_idle = message["content"].get("execution_state") == "idle"
                is_its = message["parent_header"].get("msg_id") == reply["parent_header"]["msg_id"]
                # After either, all that the kernel publishes arrives (for the welcome see JEP 65).
                if (is_idle and is_its) or message["msg_type"] == "iopub_welcome":
                    break
        return is_heard


def use_channels(manager: Any) -> Any:
    """Let the manager make ``Channels`` as its clients, unless another class was chosen. Returns the manager."""
    if type(manager) is AsyncKernelManager and manager.client_factory is AsyncKernelClient:
        manager.client_factory = Channels
    return manager


@contextmanager
def watch_for_end(pid: int | None) -> Iterator[asyncio.Future[None] | None]:
    """A future that is done when the process has ended; ``None`` if the system has no pidfd."""
    loop = asyncio.get_running_loop()
    handle = None
    with suppress(OSError, AttributeError):
        handle = os.pidfd_open(pid) if pid else None
    if handle is None:
        yield None
        return
    ended: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        loop.remove_reader(handle)
        ended.set_result(None)

    try:
        loop.add_reader(handle, tell)
        yield ended
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def end_kernel(manager: Any) -> None:
    """Ask a kernel to end, and wait for it; it is killed if it does not, as in ``shutdown_kernel``.

    Does nothing for managers other than jupyter_client's own, and without a pidfd: then jupyter_client does it.
    """
    if type(manager) is not AsyncKernelManager or not await manager.is_alive():
        return
    with watch_for_end(getattr(manager.provisioner, "pid", None)) as end:
        if end is not None:
            await manager.interrupt_kernel()
            await manager.request_shutdown()
            await asyncio.wait([end], timeout=manager.shutdown_wait_time / 2)
            await manager.finish_shutdown()

"""The plan of one execution: which cells finished in an earlier kernel and are skipped, and which are re-run.

The engine's half of ``kernel.engine_requests``. A kernel without snapshots (another language, no qcity_nb in its
environment) runs the notebook from its first cell, and a message says so.
"""

from __future__ import annotations

import ast
import asyncio
import json
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from jupyter_client.utils import run_sync  # type: ignore[attr-defined]  # its own name in 7, re-exported in 8
from nbformat import from_dict
from nbformat.v4 import new_output

from qcity_nb.cells.names import find_names, find_names_in_bodies
from qcity_nb.cells.side_effects import effects
from qcity_nb.cells.source_chain import chain, count_finished
from qcity_nb.cells.tags import check_tags, installs, is_once, is_rerun, skips_snapshot
from qcity_nb.engine import rerun
from qcity_nb.engine.kernel_process import watch_for_end
from qcity_nb.errors import StoreUnavailable
from qcity_nb.kernel.changes.moved_loops import write_cells
from qcity_nb.kernel.snapshot_budget import describe_postponed
from qcity_nb.kernel.widgets import put_states, shows_widgets, states_in

__all__ = ["ResumePlan", "OnceInDoubt", "EventWriter"]

_ASK = "__import__('qcity_nb.kernel.engine_requests', fromlist=['answer']).answer({op!r}, **{arguments!r})"


def _not_saved(records: list[dict[str, Any]]) -> list[set[str] | None]:
    return [{each["name"] for each in record["not_saved"]} if record["has_snapshot"] else None for record in records]


async def _message(client: Any) -> Any:
    message = client.kc.shell_channel.get_msg(timeout=client.shell_timeout_interval)
    return await message if asyncio.iscoroutine(message) else message


class OnceInDoubt(Exception):
    """A cell that must not run twice began in an earlier kernel, and it is not known whether it has done its work."""

    def __init__(self, index: int, chain: str, began: str) -> None:
        self.index = index
        self.chain = chain
        super().__init__(
            f"cell {index + 1} must not run twice (qcity-once), and began {began}: check whether it has done its work,"
            " then `qcity resume RUN --once done`, or `--once again`"
        )


class EventWriter(Protocol):
    """Writes events to the run's journal."""

    def __call__(self, kind: str, **data: object) -> None:
        """Add an event."""


class ResumePlan:
    """What of a notebook is finished, and where its execution resumes."""

    def __init__(self, client: Any, mailbox: Path, note: EventWriter) -> None:
        """``client`` is nbclient's; its kernel runs."""
        self._client = client
        self._mailbox = mailbox
        self._note = note
        self._code_cells = client.nb.cells
        self._places = [
            n for n, cell in enumerate(self._code_cells) if cell.cell_type == "code" and cell.source.strip()
        ]
        """The indexes of the notebook's code cells, in order; a *position* is an index into this list."""
        self._chain = chain([self._code_cells[n].source for n in self._places])
        self._positions = {n: position for position, n in enumerate(self._places)}
        self._shown: dict[int, str] = {}
        self._is_on = False
        self._records: list[dict[str, Any]] = []
        self._rerun: set[int] = set()
        self._covered = 0
        """How many cells had finished; some of them may have to be re-run."""
        self._once: Mapping[str, str] = {}
        """When cells that must not run twice began, by source."""
        self._busy: tuple[int, str] | None = None
        """The finished cell of which the kernel takes a snapshot, and the request for it."""
        self.installs: list[int] = []
        """Finished cells that installed packages which this machine may not have."""
        self.start = 0
        """The notebook's cells before this index are finished, and skipped."""

    # -- the kernel

    def _ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The kernel's answer to a request; ``ok`` is false if it failed."""
        self.wait_idle()
        answer: dict[str, Any] = run_sync(self._wait_answer)(self._request(op, **arguments))
        return answer

    def _request(self, op: str, **arguments: Any) -> str:
        request: str = run_sync(self._send)(_ASK.format(op=op, arguments=arguments))
        return request

    async def _send(self, expression: str) -> Any:
        sent = self._client.kc.execute("", silent=True, store_history=False, user_expressions={"qcity": expression})
        return await sent if asyncio.iscoroutine(sent) else sent

    async def _wait_answer(self, request: str) -> dict[str, Any]:
        client = self._client
        with watch_for_end(client.km.provisioner.pid) as end:
            while True:
                message = asyncio.ensure_future(_message(client))
                await asyncio.wait([message, *([end] if end is not None else [])], return_when=FIRST_COMPLETED)
                if not message.done() or isinstance(message.exception(), Empty):
                    message.cancel()
                    await client._async_check_alive()
                    continue
                reply = message.result()
                if reply["parent_header"].get("msg_id") == request:
                    break
        content = reply["content"]
        result = content.get("user_expressions", {}).get("qcity", {})
        if result.get("status") != "ok":
            return {"ok": False, "error": result.get("ename", content.get("status")), "why": result.get("evalue", "")}
        answer: dict[str, Any] = json.loads(ast.literal_eval(result["data"]["text/plain"]))
        return answer

    # -- begin

    def begin(self) -> None:
        """Find out after which cell to resume. The cells in ``installs`` are to be executed before ``resume``."""
        for index, cell in enumerate(self._code_cells):
            if problem := check_tags(cell.metadata.get("tags", [])):
                self._note("tag", message=f"cell {index + 1}: {problem}")
        language = self._client.km.kernel_spec.language
        if language.lower() != "python":
            self._note(
                "no-snapshots", message=f"the kernel's language is {language}: all cells are re-run after a death"
            )
            return
        write_cells(
            self._mailbox, [(self._code_cells[n].get("id", ""), self._code_cells[n].source) for n in self._places]
        )
        reply = self._ask("attend")
        if not reply["ok"]:
            why = reply["why"] or reply["error"]
            self._note("no-snapshots", message=f"the kernel gives none ({why}): all cells are re-run after a death")
            return
        self._is_on = True
        records = reply["cells"]
        count = count_finished(self._chain, [each["chain"] for each in records])
        self._covered = count
        self._once = reply["once"]
        self._records = records[: self._find_start(records, rerun.last_with_snapshot(_not_saved(records), count))]
        here = reply["machine"]
        for position, record in enumerate(self._records):
            place = self._places[position]
            if record["machine"] != here and installs(self._code_cells[place].source):
                self.installs.append(place)

    def _find_start(self, records: list[dict[str, Any]], count: int) -> int:
        """After which cell to resume, so that all variables that are needed and could not be saved are re-created.

        Variables that the remaining cells may use are re-created, by re-running the cell that made them and all cells
        since, as each may have used them. Variables that they cannot use, or that took too long to make, are left out:
        their use raises an error that says why.
        """
        not_saved = _not_saved(records)
        while count:
            coming = [self._code_cells[n].source for n in self._places[count:]]
            bodies = [self._code_cells[n].source for n in self._places[:count]]
            needed = find_names(coming) | find_names_in_bodies(bodies)
            lost = (not_saved[count - 1] or set()) & needed
            earlier = rerun.last_with_names(not_saved, count, lost)
            wall_s = sum(record["wall_s"] for record in records[earlier:count])
            if earlier == count:
                break
            names = ", ".join(sorted(lost))
            if any(is_once(self._code_cells[n].metadata.get("tags", [])) for n in self._places[earlier:count]):
                self._note("lost", message=f"{names} could not be saved, and a cell since then must not run twice")
                break
            if any(record["loops"] for record in records[earlier:count]):
                # A finished loop yields nothing: variables that its body sets beside its state would be missing.
                self._note("lost", message=f"{names} could not be saved, and a loop has finished since")
                break
            if wall_s > rerun.RERUN_S:
                self._note("lost", message=f"{names} could not be saved, and would take {wall_s:.0f} s to re-create")
                break
            self._note(
                "again",
                message=f"{names} could not be saved: re-run from cell {self._places[earlier] + 1} on, {wall_s:.1f} s"
                + self._describe_effects(self._places[earlier:count]),
            )
            count = earlier
        return count

    def _describe_effects(self, places: Sequence[int]) -> str:
        """What these cells will do again outside the kernel, as far as their source shows it."""
        described = [
            f"{what} (cell {place + 1})" for place in places for what in effects(self._code_cells[place].source)
        ]
        return f"; re-run effects outside the kernel: {', '.join(described)}" if described else ""

    def resume(self) -> None:
        """Restore the variables and outputs of the finished cells."""
        records = self._records
        if not records:
            return
        sources = {
            record["number"]: self._code_cells[place].source
            for record, place in zip(records, self._places, strict=False)
            if record["number"] is not None
        }
        reply = self._ask("resume", count=len(records), number=self._next_number(), sources=sources)
        if not reply["ok"]:
            # The variables may be incomplete: all cells are re-run.
            self._note(
                "no-resume", message=f"the variables could not be restored ({reply['why']}): all cells are re-run"
            )
            self._records = []
            return
        shown = json.loads(Path(reply["outputs"]).read_text(encoding="utf-8"))
        for position, record in enumerate(records):
            if self._places[position] not in self.installs:
                self._show(position, record, shown[position])
            if is_rerun(self._code_cells[self._places[position]].metadata.get("tags", [])):
                self._rerun.add(self._places[position])
        self.start = self._places[len(records) - 1] + 1
        self._note("cells", skipped=len(records), notes=reply["notes"])

    def _next_number(self) -> int:
        return max((record["number"] for record in self._records if record["number"] is not None), default=0) + 1

    def rerun_numbered(self, index: int, *, run: Callable[[int], bool]) -> bool:
        """Re-run a finished cell under its old execution count. Returns what ``run`` returns."""
        number = self._records[self._positions[index]]["number"]
        self._shown.pop(self._positions[index], None)
        self._ask("count", number=number)
        is_well = run(index)
        self._ask("count", number=self._next_number())
        return is_well

    def _show(self, position: int, record: Mapping[str, Any], content: str) -> None:
        """Give the notebook's cell its old output."""
        place = self._places[position]
        cell = self._code_cells[place]
        saved = json.loads(content) if content else {"outputs": [], "displays": {}}
        cell.outputs = [from_dict(output) for output in saved["outputs"]]
        cell.execution_count = record["number"]
        for display, indexes in saved["displays"].items():
            self._client._display_id_map.setdefault(display, {})[place] = list(indexes)
        put_states(saved.get("widgets", {}), self._client)
        self._shown[position] = content

    def is_skipped(self, index: int) -> bool:
        """Did that cell of the notebook finish in an earlier kernel?"""
        return index < self.start

    def duration_s(self, index: int) -> float | None:
        """How long that finished cell took; ``None``: it is not a code cell."""
        position = self._positions.get(index)
        return None if position is None else float(self._records[position]["wall_s"])

    def is_rerun(self, index: int) -> bool:
        """Is that finished cell re-run because of its tag?"""
        return index in self._rerun

    # -- cells that must not run twice

    def may_begin(self, index: int, read_decision: Callable[[], Mapping[str, Any]]) -> bool:
        """Prepare a cell to run. If it must not run twice, the store records first that it begins.

        Args:
            decided: returns a person's decision about such a cell: ``{"chain": …, "say": "done" or "again"}``.
        Returns: whether it is to run; false: a person has said that it has done its work.
        Raises:
            OnceInDoubt: it began before, and it is not known whether it has done its work.
            StoreUnavailable: the store did not answer.
        """
        position = self._positions.get(index)
        if position is None or not is_once(self._code_cells[index].metadata.get("tags", [])):
            return True
        if not self._is_on:
            self._note("once", index=index, message="this kernel cannot promise that the cell does not run twice")
            return True
        link = self._chain[position]
        (source,) = chain([self._code_cells[index].source])
        if self._once.get(source):
            decision = read_decision()
            if decision.get("chain") != link or decision.get("say") not in ("done", "again"):
                raise OnceInDoubt(index, link, self._once[source])
            if decision["say"] == "done":
                text = f"qcity: not re-run: it began {self._once[source]}, and `--once done` said that it is done\n"
                self._code_cells[index].outputs = [new_output("stream", name="stdout", text=text)]
                return False
        answer = self._ask("once", source=source)
        if not answer["ok"]:
            raise StoreUnavailable(f"cell {index + 1} (qcity-once) has not begun: {answer['why']}")
        return True

    # -- a cell has finished

    def finish_cell(self, index: int, wall_s: float, *, is_end: bool = False) -> None:
        """Tell the kernel that a cell ended without an error: it takes a snapshot, if the budget allows one.

        This returns at once; ``wait_idle`` waits for the snapshot.

        Args:
            is_end: the cell ended the notebook; the cells after it never run.
        """
        position = self._positions.get(index)
        if not self._is_on or position is None:
            return
        cell = self._code_cells[index]
        tags = cell.metadata.get("tags", [])
        event = {
            "position": position,
            "chain": self._chain[position],
            "number": cell.execution_count,
            "wall_s": round(wall_s, 3),
            "shown": dict(self._changed_outputs(position)),
            # A re-run cell is not progress, and must not look like it. A cell that ended the notebook
            # must do so again, or the cells after it would run.
            "snapshot": position >= self._covered and not is_end and not skips_snapshot(tags),
            "last": is_end or position == len(self._places) - 1,
            "once": is_once(tags),
        }
        file = self._mailbox / "finished.json"
        file.write_text(json.dumps(event), encoding="utf-8")
        self.wait_idle()
        self._busy = index, self._request("finished", file=str(file))
        if event["once"]:
            self.wait_idle()

    def wait_idle(self) -> None:
        """Wait until the kernel has taken the snapshot; before that, no other cell may run."""
        if self._busy is None:
            return
        (index, request), self._busy = self._busy, None
        answer = run_sync(self._wait_answer)(request)
        if not answer["ok"]:
            self._note("no-snapshot", index=index, message=f"{answer['error']}: {answer['why']}")
        elif needs_s := answer["postponed_s"]:
            self._note("postponed", index=index, message=describe_postponed(needs_s))

    def _changed_outputs(self, upto: int) -> Iterator[tuple[int, str]]:
        """The outputs that changed since the kernel was told of them."""
        displays: dict[int, dict[str, list[int]]] = {}
        for display, cells in self._client._display_id_map.items():
            for index, places in cells.items():
                displays.setdefault(index, {})[display] = list(places)
        for position, index in enumerate(self._places[: upto + 1]):
            outputs = self._code_cells[index].get("outputs", [])
            may_change = position == upto or position not in self._shown or index in displays
            if not may_change and not shows_widgets(outputs):
                continue
            content = ""
            if outputs:
                record = {"outputs": outputs, "displays": displays.get(index, {})}
                if states := states_in(outputs, self._client):
                    record["widgets"] = states
                content = json.dumps(record, separators=(",", ":"))
            if content != self._shown.get(position, ""):
                self._shown[position] = content
                yield position, content

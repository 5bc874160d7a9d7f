"""The repository's front page, for people who do not know qcity_nb yet."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from qcity_nb.errors import Conflict, StoreError
from qcity_nb.stores.hub.address import branch_of
from qcity_nb.stores.hub.client import NoEntry

if TYPE_CHECKING:
    from qcity_nb.stores.hub.repository import HubRepository

__all__ = ["announce", "front"]

_BEGIN = "<!-- qcity runs: everything between these two lines is rewritten with each new run -->"
_END = "<!-- end of qcity runs -->"
_SHOWN = 40


def front(old: str, *, address: str, endpoint: str, path: str, runs: list[str]) -> str:
    """The front page with the runs in it; everything else on it stays.

    Args:
        old: the page as it is; empty: there is none.
        address: the store's address, as people write it.
        endpoint, path: where the repository's pages are.
        runs: newest first.
    """
    rows = []
    for run in runs[:_SHOWN]:
        branch = quote(branch_of(run), safe="")
        rows.append(
            f"### [{run}]({endpoint}/{path}/tree/{branch})\n\n"
            f"![loss]({endpoint}/{path}/resolve/{branch}/loss.svg)\n\n"
            f"    qcity show {run} --store {address}\n    qcity resume {run} --store {address}\n"
        )
    if len(runs) > _SHOWN:
        rows.append(f"… and {len(runs) - _SHOWN} more: `qcity ps --store {address}`\n")
    block = f"{_BEGIN}\n\n" + "\n".join(rows) + f"\n{_END}"
    if _BEGIN in old and _END in old:
        before, _, rest = old.partition(_BEGIN)
        return before + block + rest.partition(_END)[2]
    if old.strip():
        return f"{old.rstrip()}\n\n## Runs\n\n{block}\n"
    title = path.rpartition("/")[2]
    return (
        f"---\ntags:\n- qcity-nb\n---\n\n# {title}\n\n"
        "Runs of notebooks that outlive their hosts, kept by qcity_nb. Each run is a branch of this repository: its\n"
        "checkpoints, journal, metrics and executed notebook. Do not edit those branches by hand.\n\n"
        f"    pip install qcity-nb\n    qcity ps --store {address}\n\n## Runs\n\n{block}\n"
    )


def announce(repository: HubRepository, run: str) -> None:
    """Add a new run to the front page. It is only for people, so errors are ignored."""
    from huggingface_hub import CommitOperationAdd

    address = repository.address
    with contextlib.suppress(StoreError, ValueError):
        for _ in range(3):
            try:
                reply = repository.read("README.md", "main")
                old, tip = reply.content.decode("utf-8", "replace"), reply.commit
            except NoEntry:
                old, tip = "", repository.tip("main")
            page = front(
                old,
                address=address.short,
                endpoint=repository.endpoint,
                path=f"{'datasets/' if address.kind == 'dataset' else ''}{address.repo}",
                runs=[run, *(name for name in _parse_runs(old) if name != run)],
            )
            try:
                addition = CommitOperationAdd("README.md", page.encode())
                repository.commit("main", [addition], parent=tip, title=f"Run {run}")
            except Conflict:
                continue
            return


def _parse_runs(page: str) -> list[str]:
    """The runs that the page shows."""
    block = page.partition(_BEGIN)[2].partition(_END)[0]
    return [line[5:].partition("]")[0] for line in block.splitlines() if line.startswith("### [")]

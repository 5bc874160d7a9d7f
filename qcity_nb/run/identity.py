"""Which run is meant: a run's key is (project, notebook, parameters, name).

    find_or_create(store, project=…, notebook=…)  ->  head, is_new      an unfinished run, else a new one

A run's id is ``<slug>-<key6>-<n>``: a name that people recognise, six digits of the key, and a count. A new run is made
by compare-and-set, so two callers at the same time get the same run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from qcity_nb import codec
from qcity_nb.errors import Conflict, HeadCorrupt, UnknownRun, UsageError
from qcity_nb.ports import Store
from qcity_nb.records import DesiredState, Head, Relaunch
from qcity_nb.run import lease
from qcity_nb.secrets import current_search

__all__ = ["find_or_create", "key", "match", "renew_bundle", "renew_source", "reopen", "slug", "source_name"]

_TRIES = 20


def key(*, project: str, notebook: str, parameters: Mapping[str, Any], name: str = "") -> str:
    """The run's key: the same for the same four things, whatever the order of the parameters.

    Args:
        notebook: its path in the project, with forward slashes.
        parameters: plain JSON values; 1, 1.0 and ``True`` differ.
    """
    text = json.dumps(codec.encode([project, notebook, dict(parameters), name]), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def slug(notebook: str, name: str = "") -> str:
    """What people recognise a run by, in characters fit for an id: its name, or the notebook's."""
    text = name or notebook.rsplit("/", 1)[-1].removesuffix(".ipynb")
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")[:40].strip("-_") or "run"


def _list_numbers(store: Store, prefix: str) -> list[int]:
    """The counts of the runs whose id begins with ``prefix``, newest first."""
    numbers = []
    for run in store.runs():
        rest = run.removeprefix(prefix)
        if rest != run and rest.isdecimal():
            numbers.append(int(rest))
    return sorted(numbers, reverse=True)


def source_name(source: bytes) -> str:
    """The name under which this content of a notebook is stored."""
    return f"source.ipynb-{hashlib.sha256(source).hexdigest()[:16]}"


def find_or_create(
    store: Store,
    *,
    project: str,
    notebook: str,
    parameters: Mapping[str, Any] | None = None,
    name: str = "",
    fresh: bool = False,
    source: bytes = b"",
    bundle: tuple[str, bytes] = ("", b""),
    output: str = "",
    desired: DesiredState | None = None,
    relaunch: Relaunch | None = None,
) -> tuple[Head, bool]:
    """The newest unfinished run with this key, or a new one.

    Args:
        project, notebook, parameters, name: see ``key``.
        fresh: make a new run in any case.
        source: the notebook's content, stored with a new run for hosts without the project's files.
        bundle: name and content of the project's files for such hosts, stored too.
        output: where a new run's executed notebook goes; ``{run}`` in it becomes the run's id.
        desired, relaunch: what a new run begins with.
    Returns: the run record, and whether it is new; an old one is returned unchanged.
    Raises:
        HeadCorrupt: a run whose id begins like this one's cannot be read, so whether it is unfinished is unknown;
            ``fresh`` ignores it.
        StoreUnavailable: the store did not answer.
        UsageError: a parameter, or the notebook for a store that is not on this machine, holds a secret.
    """
    parameters = dict(parameters or {})
    _refuse_secrets(store, notebook, source, parameters)
    run_key = key(project=project, notebook=notebook, parameters=parameters, name=name)
    prefix = f"{slug(notebook, name)}-{run_key[:6]}-"
    numbers = _list_numbers(store, prefix)
    if not fresh:
        for n in numbers:
            unfinished = _read_unfinished(store, f"{prefix}{n}", run_key)
            if unfinished is not None:
                return unfinished, False
    n = numbers[0] if numbers else 0
    for _ in range(_TRIES):
        n += 1
        run = f"{prefix}{n}"
        head = Head(
            run=run,
            key=run_key,
            project=project,
            notebook=notebook,
            name=name,
            parameters=parameters,
            source=source_name(source) if source else "",
            bundle=bundle[0],
            output=output.replace("{run}", run),
            desired=desired or DesiredState(),
            relaunch=relaunch or Relaunch(),
        )
        files = {name: content for name, content in ((head.source, source), bundle) if name}
        try:
            return lease.create(store, head, files=files or None), True
        except Conflict:
            # The listing may lag: somebody made this run before us, perhaps just now and for the same key.
            unfinished = None if fresh else _read_unfinished(store, run, run_key)
            if unfinished is not None:
                return unfinished, False
    raise Conflict(f"{_TRIES} other runs {prefix}… were made at the same time: try again")


def _refuse_secrets(store: Store, notebook: str, source: bytes, parameters: Mapping[str, Any] = {}) -> None:
    search = current_search()
    if name := search.name_in(json.dumps(parameters, ensure_ascii=False, default=str).encode()):
        raise UsageError(f'a parameter holds the secret {name}: take it in the notebook, by city.secret("{name}")')
    place, separator, _ = store.address.partition("://")
    if separator and place != "file" and (name := search.name_in(source)):
        raise UsageError(
            f"{notebook} holds the secret {name}, and {store.address} is not on this machine: "
            f'write city.secret("{name}") instead, and clear the outputs that show it'
        )


def renew_source(store: Store, head: Head, content: bytes) -> Head:
    """Store the notebook as it is now: hosts without the project's files then resume the run with it.

    Raises:
        UsageError: it holds a secret, and the store is not on this machine.
    """
    name = source_name(content)
    if not content or head.source == name:
        return head
    _refuse_secrets(store, head.notebook, content)
    return lease.amend(store, head.run, lambda now: replace(now, source=name), files={name: content})


def renew_bundle(store: Store, head: Head, bundle: tuple[str, bytes]) -> Head:
    """Store the project's files as they are now: hosts that do not have them then resume the run with these."""
    name, content = bundle
    if not name or head.bundle == name:
        return head
    return lease.amend(store, head.run, lambda now: replace(now, bundle=name), files={name: content})


def _read_unfinished(store: Store, run: str, run_key: str) -> Head | None:
    try:
        head = lease.read(store, run).head
    except UnknownRun:
        return None
    except HeadCorrupt as error:
        raise HeadCorrupt(f"{error}; --fresh begins a new run beside it") from None
    return head if head.key == run_key and not head.is_over else None


def match(store: Store, text: str) -> str:
    """The run that ``text`` names: its id, or the beginning of exactly one.

    Raises:
        UnknownRun: none, or more than one.
    """
    runs = store.runs()
    if text in runs:
        return text
    matches = [run for run in runs if run.startswith(text)] if text else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UnknownRun(f"{text!r} may be any of {', '.join(matches[:5])}{' …' if len(matches) > 5 else ''}")
    raise UnknownRun(f"no run {text!r} in {store.address}: `qcity ps` lists the runs")


def reopen(
    store: Store, run: str, *, hosts: tuple[str, ...] = (), output: str = "", once: Literal["", "done", "again"] = ""
) -> Head:
    """Let a run resume, as a person asked: after a stop, from manual, or after its relaunch budget was spent.

    It gets a new relaunch budget, and keeps its hosts unless ``hosts`` names some.

    Args:
        once: what a person found out about the cell that must not run twice and had begun: its effect happened
            (``done``), or it may run ``again``.
    Raises:
        UsageError: it succeeded, or its notebook failed: that is final; or ``once`` is missing, or no cell is in doubt.
    """

    def change(head: Head) -> Head:
        if head.state == "succeeded":
            raise UsageError(f"run {run} has succeeded; `qcity run --fresh` begins a new run")
        if head.state == "failed" and (head.failure is None or head.failure.cause == "notebook"):
            why = f": {head.failure.message}" if head.failure else ""
            raise UsageError(f"the notebook of run {run} failed{why}; `qcity run` begins a new run")
        doubt: Mapping[str, Any] = head.extra.get("once", {})
        if doubt and not once and "say" not in doubt:
            raise UsageError(str(doubt["message"]).replace("RUN", run))
        if once and not doubt:
            raise UsageError(f"--once {once}: no cell of run {run} is in doubt")
        launches = replace(head.launches, failed=0, term=head.term, reason="", since_term=head.term)
        is_parked = head.state != "running" or head.desired.state == "stopped" or head.desired.manual
        return replace(
            head,
            state="running",
            desired=replace(head.desired, state="running", hosts=hosts or head.desired.hosts, manual=False),
            failure=None if head.state == "failed" else head.failure,
            launches=launches if is_parked else head.launches,
            output=output or head.output,
            extra={**head.extra, "once": {**doubt, "say": once}} if once else head.extra,
        )

    return lease.amend(store, run, change)

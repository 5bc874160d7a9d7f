"""``qcity doctor``: every setting, its value, where it came from, and what is wrong."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import chain
from typing import Literal

from qcity_nb import hosts
from qcity_nb.checkpoint import signing
from qcity_nb.checkpoint.memory import available_bytes
from qcity_nb.checkpoint.retention import keep_of
from qcity_nb.cli.arguments import load_settings
from qcity_nb.errors import QcityError, StoreUnavailable, UsageError
from qcity_nb.hosts import limits
from qcity_nb.hosts.detect import detect
from qcity_nb.run import lease
from qcity_nb.run.local_dir import find_problem
from qcity_nb.settings import Settings, signing_key
from qcity_nb.stores import open_store, trust
from qcity_nb.views.words import mask, size, table

__all__ = ["Finding", "doctor"]

_FREE_BYTES = 1_000_000_000
_WRONG = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check."""

    what: str
    verdict: Literal["ok", "wrong", "note"]
    detail: str


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        store = open_store(settings.store)
        runs = store.runs()
    except QcityError as error:
        yield Finding(what="store", verdict="wrong", detail=str(error))
        return
    yield Finding(what="store", verdict="ok", detail=f"{mask(store.address)}, {len(runs)} runs")
    key, trust_problem = signing_key(), trust.trust_problem(store)
    if key is not None:
        yield Finding(what="trust", verdict="ok", detail=f"checkpoints are signed with the key {signing.key_id(key)}")
    elif trust_problem:
        yield Finding(what="trust", verdict="wrong", detail=f"checkpoints are not signed, and {trust_problem}")
    else:
        detail = f"checkpoints are not signed: {trust.who_writes(store)} can put one there, and it is unpickled"
        yield Finding(what="trust", verdict="ok", detail=mask(detail))
    for run in runs:
        try:
            lease.read(store, run)
        except QcityError as error:
            yield Finding(what=f"run {run}", verdict="wrong", detail=str(error))


def _memory() -> str:
    free = available_bytes()
    memory = "free memory is not known" if free is None else f"{free / 1e9:.1f} GB free"
    return f"{memory}; a loop needs its state's size once more for a copy, else it waits while each save is written"


def _local(settings: Settings) -> Iterator[Finding]:
    folder = settings.local_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
    except OSError as error:
        yield Finding(what="local", verdict="wrong", detail=f"{folder} cannot be written: {error.strerror}")
        return
    if problem := find_problem(folder):
        yield Finding(what="local", verdict="wrong", detail=problem)
    yield Finding(what="memory", verdict="note", detail=_memory())
    free = shutil.disk_usage(folder).free
    yield Finding(
        what="local",
        verdict="ok" if free >= _FREE_BYTES else "wrong",
        detail=f"{folder}, {free / 1e9:.1f} GB free" + ("" if free >= _FREE_BYTES else ": under 1 GB"),
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _tracking(settings: Settings) -> Iterator[Finding]:
    address = mask(settings.tracking)
    if not settings.tracking:
        yield Finding(what="tracking", verdict="note", detail="none: metrics stay in the outbox")
        return
    if settings.tracking.lower().startswith("jsonl:"):
        yield Finding(what="tracking", verdict="ok", detail=address)
        return
    if find_spec("mlflow") is None:
        yield Finding(what="tracking", verdict="wrong", detail="mlflow-skinny is missing: reinstall qcity-nb")
        return
    if not re.match(r"https?://", settings.tracking) and (
        _version("mlflow") is None or find_spec("sqlalchemy") is None
    ):
        yield Finding(
            what="tracking",
            verdict="note",
            detail=f'{address} needs `pip install "qcity-nb[local]"`; until then metrics wait in the outbox',
        )
        return
    yield Finding(what="tracking", verdict="ok", detail=address)


def _kernel(_settings: Settings) -> Iterator[Finding]:
    if find_spec("ipykernel") is None or find_spec("jupyter_client") is None:
        yield Finding(what="kernel", verdict="wrong", detail="ipykernel is missing: pip install ipykernel")
        return
    from jupyter_client.kernelspec import KernelSpecManager

    kernels = sorted(KernelSpecManager().find_kernel_specs())
    if not kernels:
        yield Finding(what="kernel", verdict="wrong", detail="no kernel: python -m ipykernel install --user")
        return
    yield Finding(what="kernel", verdict="ok", detail=", ".join(kernels))


def _hosts(settings: Settings) -> Iterator[Finding]:
    for name in settings.hosts:
        try:
            price = hosts.launcher(name, settings).quote()
        except StoreUnavailable as error:
            yield Finding(what=f"host {name}", verdict="note", detail=str(error))
        except QcityError as error:
            yield Finding(what=f"host {name}", verdict="wrong", detail=str(error))
        else:
            yield Finding(what=f"host {name}", verdict="ok", detail=f"installed{f', {price}' if price else ''}")


def _extras(_settings: Settings) -> Iterator[Finding]:
    for extra, distribution in (("panel", "ipywidgets"), ("dvc", "dvc"), ("dagshub", "dagshub"), ("local", "mlflow")):
        installed = _version(distribution)
        yield Finding(
            what=f"extra {extra}",
            verdict="ok" if installed else "note",
            detail=f"{distribution} {installed}" if installed else f'not installed: pip install "qcity-nb[{extra}]"',
        )


def _session(settings: Settings) -> Iterator[Finding]:
    here = detect()
    limit_s = settings.session_limit_s or here.session_limit_s
    if limit_s is None:
        detail = f"{here.name} ({here.evidence}): no limit is known"
    else:
        limit = limits.limit_of(here.name, here.environ)
        source = limit.source if limit is not None and settings.session_limit_s is None else "session_limit"
        age = limits.session(limit_s)
        detail = (
            f"{here.name} ({here.evidence}): ends after {limit_s / 3600:g} h ({source}), "
            f"is {age.age_s / 3600:.1f} h old ({age.evidence})"
        )
    yield Finding(what="session", verdict="note", detail=detail)


def _keep(settings: Settings) -> Iterator[Finding]:
    try:
        keep = keep_of(settings.keep_last, settings.keep_every, settings.keep_best)
    except QcityError as error:
        yield Finding(what="keep", verdict="wrong", detail=str(error))
        return
    parts = [f"the newest {keep.last}"]
    if keep.every is not None:
        parts.append(f"the first of each {keep.every} steps")
    if keep.goal is not None:
        parts.append(f"the one with the {'highest' if keep.goal.mode == 'max' else 'lowest'} {keep.goal.metric}")
    yield Finding(what="keep", verdict="ok", detail=", ".join(parts) + ", and those with a name")


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _store,
    _local,
    _keep,
    _session,
    _tracking,
    _kernel,
    _hosts,
    _extras,
)


def _probe(address: str, *, with_contract: bool, as_json: bool) -> int:
    """``qcity doctor --probe``: prints one line for each probe as it ends."""
    from qcity_nb.stores.hub.probe import Finding as Probed
    from qcity_nb.stores.hub.probe import probe

    more: Iterator[Probed] = iter(())
    if with_contract:
        if find_spec("pytest") is None:
            raise UsageError("--contract runs a test suite: pip install pytest")
        from qcity_nb.testing.contracts.at_hub import contract

        more = contract(address)
    findings = []
    for finding in chain(probe(address), more):
        findings.append(finding)
        if not as_json:
            verdict = "OK" if finding.is_as_expected else "DIFFERS"
            print(f"{verdict:8} {finding.name}{f': {finding.detail}' if finding.detail else ''}", flush=True)
    different = [finding for finding in findings if not finding.is_as_expected]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        print(
            f"\n{len(different)} of {len(findings)} differ" if different else f"\nall {len(findings)} are as expected"
        )
    return _WRONG if different else 0


def doctor(args: argparse.Namespace) -> int:
    """``qcity doctor``."""
    if args.probe:
        return _probe(args.probe, with_contract=args.contract, as_json=args.json)
    if args.contract:
        raise UsageError("--contract goes with --probe hf://USER/SCRATCH")
    settings = load_settings(args.store)
    values = {
        field.name: (
            mask(_plain(field.name, getattr(settings, field.name))),
            settings.origin.get(field.name, "default"),
        )
        for field in fields(settings)
        if field.name not in ("origin", "project")
        and not (field.name in ("mailbox", "chaos") and not getattr(settings, field.name))  # not for people
    }
    findings = [
        Finding(
            what="python",
            verdict="ok" if sys.version_info >= (3, 11) else "wrong",
            detail=f"{sys.version.split()[0]} in {sys.executable}",
        )
    ]
    for check in _CHECKS:
        findings += check(settings)
    wrong = [finding for finding in findings if finding.verdict == "wrong"]
    project = settings.project
    if args.json:
        report = {
            "project": {"name": project.name, "name_from": project.name_from, "root": str(project.root)},
            "settings": {name: {"value": value, "origin": origin} for name, (value, origin) in values.items()},
            "findings": [{"what": each.what, "verdict": each.verdict, "detail": each.detail} for each in findings],
        }
        print(json.dumps(report))
        return _WRONG if wrong else 0
    print(f"project {project.name} (named by {project.name_from}): {project.root} ({project.evidence})\n")
    print(table([("SETTING", "VALUE", "FROM"), *((name, *pair) for name, pair in values.items())]))
    print()
    print(table([(each.verdict.upper(), each.what, each.detail) for each in findings]))
    print()
    print(f"{len(wrong)} wrong" if wrong else "nothing is wrong")
    return _WRONG if wrong else 0


def _plain(name: str, value: object) -> str:
    if value in (None, "", ()):
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if name.endswith("_share"):
        return f"{value:.0%}"
    if name == "storage_budget" and isinstance(value, int):
        return size(value)
    if isinstance(value, float):
        return f"{value:g} s"
    return str(value)

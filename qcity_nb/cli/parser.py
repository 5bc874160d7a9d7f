"""The parser of the command line: all commands, their options, help and examples; it imports none of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from qcity_nb.version import __version__

__all__ = ["build_parser"]


EXIT_CODES = """exit codes:
   0  done; `run`: the run succeeded
   1  an unexpected error: please report it; `demo`: the runs were not equal
   2  the command, a parameter or a setting is wrong; `doctor`: something is wrong
   3  a cell of the notebook raised
   4  the run was stopped; `qcity resume` resumes it
   5  another attempt holds the run
   6  the store failed or refused
   7  a checkpoint cannot be written or read
   8  a data file is missing or has the wrong md5
   9  the tracker did not answer
  10  the relaunch budget is spent
 130  Ctrl-C
"""


def _lazy(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def call(args: argparse.Namespace) -> int:
        function: Callable[[argparse.Namespace], int] = getattr(import_module(f"qcity_nb.{module}"), name)
        return function(args)

    return call


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("name at least one host")
    return names


def build_parser() -> argparse.ArgumentParser:
    """All commands, their options and examples."""
    top = argparse.ArgumentParser(
        prog="qcity",
        description="Runs notebooks and resumes them after a crash, on the same host or another one.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"qcity {__version__}")
    top.add_argument("--traceback", action="store_true", help="print the traceback of an error")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def command(
        name: str, help_: str, examples: str, call: tuple[str, str] | None, among: Any = commands
    ) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = among.add_parser(
            name,
            help=help_,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # Accepted after the command too; where it is missing there, the value from before the command stays.
        sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if call is not None:
            sub.set_defaults(call=_lazy(*call))
        return sub

    def with_store(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--store", metavar="STORE", help="where runs live: a directory, or hf://USER/REPO")

    def with_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print JSON, for scripts")

    def with_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("run", metavar="RUN", help="a run's id, or its beginning")

    run = command(
        "run",
        "run a notebook until it has ended, and relaunch it whenever its host dies",
        "  qcity run train.ipynb\n  qcity run train.ipynb -p epochs 20 -p lr 0.1 -o trained.ipynb\n"
        "  qcity run train.ipynb --detach      # then: qcity ps, qcity logs -f RUN",
        ("cli.run", "run"),
    )
    run.add_argument("notebook", metavar="NOTEBOOK", help="a notebook's path")
    run.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the notebook; may be repeated",
    )
    run.add_argument("-o", "--output", metavar="OUT", help="the executed notebook; default: under .qcity/executed")
    run.add_argument("--on", type=_hosts, metavar="HOST[,HOST]", help="which hosts to run on, in order of preference")
    run.add_argument("--name", default="", help="tells apart runs of one notebook with the same parameters")
    run.add_argument("--fresh", action="store_true", help="start a new run even if one is unfinished")
    run.add_argument("--detach", action="store_true", help="return at once; a keeper continues in the background")
    with_store(run)
    with_json(run)

    keep = command(
        "keep",
        "relaunch the runs of the store whose attempt has died",
        "  qcity keep                  # all runs of the store, until Ctrl-C\n"
        "  qcity keep --once           # check each run once, for cron\n  qcity keep --run RUN\n"
        "  qcity keep --on hf-jobs     # leave the runs for other hosts to other keepers\n"
        "  qcity keep --schedule hf-jobs --every 10m --store hf://me/runs    # as a scheduled job\n"
        "  qcity keep --schedule hf-jobs --list\n"
        "  qcity keep --schedule hf-jobs --off --store hf://me/runs",
        ("cli.run", "keep"),
    )
    keep.add_argument("--once", action="store_true", help="check each run once, then end")
    keep.add_argument("--run", action="append", metavar="RUN", help="only this run, until it ends; may be repeated")
    keep.add_argument("--on", type=_hosts, metavar="HOST[,HOST]", help="launch only on these kinds of host")
    keep.add_argument(
        "--schedule",
        metavar="HOST",
        help="run a keeper as a scheduled job on hf-jobs (or hf-jobs:cpu-basic, …), without a machine of yours",
    )
    scheduling = keep.add_mutually_exclusive_group()
    scheduling.add_argument("--every", metavar="TIME", help="with --schedule: how often; 10m by default")
    scheduling.add_argument("--list", action="store_true", help="with --schedule: list the stores with a schedule")
    scheduling.add_argument("--off", action="store_true", help="with --schedule: remove this store's schedule")
    with_store(keep)

    ps = command("ps", "list the runs", "  qcity ps\n  qcity ps --json", ("cli.view", "ps"))
    with_store(ps)
    with_json(ps)

    show = command("show", "show a run's details and its journal", "  qcity show train-1a2b3c-1", ("cli.view", "show"))
    with_run(show)
    with_store(show)
    with_json(show)

    logs = command(
        "logs",
        "print what a run's attempts printed, from this machine or from the host's service",
        "  qcity logs train-1a2b3c-1\n  qcity logs -f train     # until the run has ended",
        ("cli.view", "logs"),
    )
    with_run(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="continue until the run has ended")
    with_store(logs)

    explain = command(
        "explain",
        "list the variables that a new host would find: saved or not, size, cost, and how each comes back",
        "  qcity explain train.ipynb            # its newest run\n"
        "  qcity explain train-1a2b3c-1 --cell 3\n  qcity explain train --json",
        ("cli.explain", "explain"),
    )
    explain.add_argument("run", metavar="NOTEBOOK_OR_RUN", help="a notebook's path, or a run's id or its beginning")
    explain.add_argument(
        "--cell",
        type=_number,
        metavar="N",
        help="after this cell, not the newest; code cells are counted from 1",
    )
    with_store(explain)
    with_json(explain)

    _checkpoints(command, with_run, with_store, with_json)

    stop = command(
        "stop",
        "stop a run at its next loop boundary, its work saved",
        "  qcity stop train-1a2b3c-1",
        ("cli.run", "stop"),
    )
    with_run(stop)
    with_store(stop)

    resume = command(
        "resume",
        "resume a stopped or manual run, or one that a keeper gave up",
        "  qcity resume train-1a2b3c-1\n  qcity resume train --on local --detach\n  qcity resume train --once done",
        ("cli.run", "resume"),
    )
    with_run(resume)
    resume.add_argument(
        "--on", type=_hosts, metavar="HOST[,HOST]", help="which hosts to run on, in order of preference"
    )
    resume.add_argument(
        "--once",
        choices=("done", "again"),
        help="for a cell tagged qcity-once that had begun when the host died: skip it (done), or re-run it (again)",
    )
    resume.add_argument("--detach", action="store_true", help="return at once; a keeper continues in the background")
    with_store(resume)
    with_json(resume)

    doctor = command(
        "doctor",
        "show every setting, where it came from, and what is wrong",
        "  qcity doctor\n  qcity doctor --json\n  qcity doctor --probe hf://me/scratch",
        ("cli.doctor", "doctor"),
    )
    doctor.add_argument(
        "--probe",
        metavar="hf://USER/SCRATCH",
        help="check in a scratch repository that a Hub behaves as the store assumes; makes some 30 commits",
    )
    doctor.add_argument(
        "--contract",
        action="store_true",
        help="with --probe: run the store's contract suite there too; needs pytest, and 1.5 h at huggingface.co",
    )
    with_store(doctor)
    with_json(doctor)

    hosts = command(
        "hosts",
        "list the installed kinds of host, and what hardware costs there now",
        "  qcity hosts\n  qcity hosts --json",
        ("cli.hosts", "list_hosts"),
    )
    with_json(hosts)

    page = command(
        "page",
        "show the store's runs as a page in the browser",
        "  qcity page                                  # http://127.0.0.1:7860\n"
        "  qcity page --keep hf-jobs --host 0.0.0.0    # in a container: open to others, with a keeper",
        ("cli.page", "page"),
    )
    page.add_argument("--port", type=int, default=7860, help="7860 by default; 0: any free port")
    page.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; by default 127.0.0.1, for this machine only"
    )
    page.add_argument(
        "--keep",
        type=_hosts,
        nargs="?",
        const=(),
        metavar="HOST[,HOST]",
        help="be a keeper too, for these kinds of host or for all",
    )
    with_store(page)

    init = command(
        "init",
        "start a new project from a template",
        "  qcity init my-project\n  qcity init digits my-project\n  qcity init space my-space",
        ("cli.run", "init"),
    )
    init.add_argument("template", nargs="?", metavar="TEMPLATE", help="digits, blank or space; by default blank")
    init.add_argument("directory", metavar="DIR", help="the new project's directory")

    _hub(command)

    demo = command(
        "demo",
        "train on the digits, kill the host three times, and compare with an undisturbed run",
        "  qcity demo\n"
        "  qcity hub serve &                                    # a Hub emulator on this machine\n"
        "  export HF_ENDPOINT=http://127.0.0.1:8000 HF_TOKEN=any    # as it prints\n"
        "  qcity demo --store hf://user/demo --on hf-jobs       # kills jobs in an upload, a commit, a save",
        ("cli.demo", "demo"),
    )
    demo.add_argument("--on", type=_hosts, metavar="HOST", help="the host of the killed run: local, or hf-jobs")
    demo.add_argument("--plant", default="", choices=("generators", "rows"), help=argparse.SUPPRESS)
    with_store(demo)
    return top


def _checkpoints(
    command: Callable[..., argparse.ArgumentParser],
    with_run: Callable[[argparse.ArgumentParser], None],
    with_store: Callable[[argparse.ArgumentParser], None],
    with_json: Callable[[argparse.ArgumentParser], None],
) -> None:
    """``qcity checkpoints`` and what belongs to it."""
    top = command(
        "checkpoints",
        "list, compare, check, export or drop a run's checkpoints",
        "  qcity checkpoints train                       # the same as: qcity checkpoints list train\n"
        "  qcity checkpoints diff train previous newest\n"
        "  qcity checkpoints verify train\n"
        "  qcity checkpoints export train newest model.safetensors\n"
        "  qcity checkpoints prune train --keep 1 --dry-run",
        None,
    )
    actions = top.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)

    def action(name: str, help_: str, examples: str) -> argparse.ArgumentParser:
        sub = command(name, help_, examples, ("cli.checkpoints", name), actions)
        with_run(sub)
        return sub

    def with_loop(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--loop", metavar="NAME", help="which loop, by name or key, if the run has several")

    seq_help = "a checkpoint's number, newest or previous"
    listing = action(
        "list",
        "list the checkpoints, newest first; the same as `qcity checkpoints RUN`",
        "  qcity checkpoints list train-1a2b3c-1\n  qcity checkpoints train --json",
    )
    with_json(listing)
    diff = action(
        "diff",
        "show which variables changed between two checkpoints, and by how much",
        "  qcity checkpoints diff train previous newest\n  qcity checkpoints diff train 12 40 --loop epochs",
    )
    diff.add_argument("before", metavar="A", help=seq_help)
    diff.add_argument("after", metavar="B", help="the same")
    with_loop(diff)
    with_json(diff)
    verify = action(
        "verify",
        "read every object of every checkpoint, in the store and on this host; exit code 7 if one is damaged",
        "  qcity checkpoints verify train\n  qcity checkpoints verify train 40 newest",
    )
    verify.add_argument("seqs", metavar="SEQ", nargs="*", help=f"{seq_help}; all by default")
    with_json(verify)
    export = action(
        "export",
        "write a checkpoint as a safetensors file, or as a directory for torch.distributed.checkpoint",
        "  qcity checkpoints export train newest model.safetensors\n"
        "  qcity checkpoints export train 40 step-40 --loop epochs",
    )
    export.add_argument("seq", metavar="SEQ", help=seq_help)
    export.add_argument("out", metavar="OUT", help="must not exist; NAME.safetensors is a file, else a directory")
    export.add_argument("--format", choices=("safetensors", "dcp"), help="by default taken from OUT's name")
    with_loop(export)
    prune = action(
        "prune",
        "drop older published checkpoints of a run that no running attempt holds",
        "  qcity checkpoints prune train --keep 1 --dry-run\n  qcity checkpoints prune train --keep 1",
    )
    prune.add_argument("--keep", metavar="N", type=_count, required=True, help="how many of the newest stay")
    prune.add_argument("--dry-run", action="store_true", help="only print what it would free")
    for sub in (listing, diff, verify, export, prune):
        with_store(sub)


def _hub(command: Callable[..., argparse.ArgumentParser]) -> None:
    """``qcity hub`` and what belongs to it."""
    examples = (
        "  qcity hub serve                    # prints the token of the user `user`\n"
        "  qcity hub serve --port 8080 --dir /tmp/hub\n"
        "  qcity hub serve --users users.toml    # a table for each token: name, role, orgs, scopes\n"
        "  qcity hub serve --fault commit-lost=2 --fault upload-slow=100000"
    )
    top = command("hub", "serve an emulator of the Hugging Face Hub, for tests", examples, None)
    actions = top.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    call = ("cli.hub", "serve")
    serve = command("serve", "serve the emulator on this machine, until Ctrl-C", examples, call, actions)
    serve.add_argument("--port", type=int, default=0, metavar="PORT", help="where to listen; default: a free port")
    serve.add_argument("--dir", metavar="DIR", help="where its data is stored; default: .qcity/hub of the project")
    serve.add_argument("--users", metavar="FILE", help="users by token, as TOML or JSON; default: one")
    serve.add_argument("--any-token", action="store_true", help="any token is the user `user`, for tests")
    serve.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=N",
        help="let N calls fail in this way (upload-slow: N bytes a second; commit-slow: N seconds); may be repeated",
    )


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("cells are counted from 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1: the newest checkpoint is never dropped")
    return int(text)

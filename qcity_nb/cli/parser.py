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
   1  an error nobody foresaw: please report it
   2  the command, a parameter or a setting is wrong; `doctor`: something is wrong
   3  a cell of the notebook raised
   4  the run was stopped; `qcity resume` goes on
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
        description="Notebooks that outlive their hosts.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"qcity {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where in qcity an error arose")
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
        # Given after the command too; unset there, it must not undo what stood before it.
        sub.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if call is not None:
            sub.set_defaults(call=_lazy(*call))
        return sub

    def with_store(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--store", metavar="STORE", help="where runs live: a directory or an address")

    def with_json(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--json", action="store_true", help="print JSON, for scripts")

    def with_run(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("run", metavar="RUN", help="a run's id, or its beginning")

    run = command(
        "run",
        "run a notebook until it has ended, whatever dies on the way",
        "  qcity run train.ipynb\n  qcity run train.ipynb -p epochs 20 -p lr 0.1 -o trained.ipynb\n"
        "  qcity run train.ipynb --detach      # then: qcity ps, qcity logs -f RUN",
        ("cli.run", "run"),
    )
    run.add_argument("notebook", metavar="NOTEBOOK")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("-o", "--output", metavar="OUT", help="the executed notebook; default: under .qcity/executed")
    run.add_argument("--on", type=_hosts, metavar="HOST[,HOST]", help="where to run, in order of preference")
    run.add_argument("--name", default="", help="tells apart runs of one notebook with the same parameters")
    run.add_argument("--fresh", action="store_true", help="begin a new run even if one is unfinished")
    run.add_argument("--detach", action="store_true", help="return at once; a keeper stays in the background")
    with_store(run)
    with_json(run)

    keep = command(
        "keep",
        "keep runs running: relaunch what died",
        "  qcity keep                  # all runs of the store, until Ctrl-C\n"
        "  qcity keep --once           # one look at each, as from cron\n  qcity keep --run RUN\n"
        "  qcity keep --on hf-jobs     # leave runs that want another host to other keepers",
        ("cli.run", "keep"),
    )
    keep.add_argument("--once", action="store_true", help="look at each run once")
    keep.add_argument("--run", action="append", metavar="RUN", help="only this run; ends when it has ended")
    keep.add_argument("--on", type=_hosts, metavar="HOST[,HOST]", help="launch on these kinds of host alone")
    with_store(keep)

    ps = command("ps", "list the runs", "  qcity ps\n  qcity ps --json", ("cli.view", "ps"))
    with_store(ps)
    with_json(ps)

    show = command("show", "show all about one run", "  qcity show train-1a2b3c-1", ("cli.view", "show"))
    with_run(show)
    with_store(show)
    with_json(show)

    logs = command(
        "logs",
        "print what a run's attempts wrote, here or as the host's service has it",
        "  qcity logs train-1a2b3c-1\n  qcity logs -f train     # until the run has ended",
        ("cli.view", "logs"),
    )
    with_run(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run has ended")
    with_store(logs)

    explain = command(
        "explain",
        "list the variables behind a run's newest finished cell: size, cost, and how each comes back on a new host",
        "  qcity explain train.ipynb            # its newest run\n"
        "  qcity explain train-1a2b3c-1 --cell 3\n  qcity explain train --json",
        ("cli.explain", "explain"),
    )
    explain.add_argument("run", metavar="NOTEBOOK_OR_RUN", help="a notebook's path, or a run's id or its beginning")
    explain.add_argument("--cell", type=_number, metavar="N", help="behind this cell; code cells are counted from 1")
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
        "let a stopped, attended or given up run go on",
        "  qcity resume train-1a2b3c-1\n  qcity resume train --on local --detach\n  qcity resume train --once done",
        ("cli.run", "resume"),
    )
    with_run(resume)
    resume.add_argument("--on", type=_hosts, metavar="HOST[,HOST]", help="where to go on")
    resume.add_argument(
        "--once",
        choices=("done", "again"),
        help="what is so of a cell tagged qcity-once that began before: it is done, or is to run again",
    )
    resume.add_argument("--detach", action="store_true", help="return at once; a keeper stays in the background")
    with_store(resume)
    with_json(resume)

    doctor = command(
        "doctor",
        "say every setting, where it came from, and what is wrong",
        "  qcity doctor\n  qcity doctor --json\n  qcity doctor --probe hf://me/scratch",
        ("cli.doctor", "doctor"),
    )
    doctor.add_argument(
        "--probe",
        metavar="hf://USER/SCRATCH",
        help="ask a Hub, in a scratch repository, whether it behaves as the store takes for granted; some 30 commits",
    )
    doctor.add_argument(
        "--contract",
        action="store_true",
        help="with --probe: run the store's contract there too; needs pytest, and 1.5 h at huggingface.co",
    )
    with_store(doctor)
    with_json(doctor)

    hosts = command(
        "hosts",
        "list the hosts that are installed, and what hardware there costs now",
        "  qcity hosts\n  qcity hosts --json",
        ("cli.hosts", "list_hosts"),
    )
    with_json(hosts)

    watch = command(
        "watch-on",
        "have a keeper look at the store's runs on a schedule, without a machine of yours",
        "  qcity watch-on hf-jobs --every 10m --store hf://me/runs\n  qcity watch-on hf-jobs --list\n"
        "  qcity watch-on hf-jobs --off --store hf://me/runs",
        ("cli.hosts", "watch_on"),
    )
    watch.add_argument("host", metavar="HOST", help="hf-jobs, or with hardware: hf-jobs:cpu-basic")
    doing = watch.add_mutually_exclusive_group()
    doing.add_argument("--every", default="10m", metavar="TIME", help="how often: 10m by default")
    doing.add_argument("--list", action="store_true", help="list the stores that are watched")
    doing.add_argument("--off", action="store_true", help="stop watching this store")
    with_store(watch)

    page = command(
        "page",
        "show the store's runs as a page in the browser",
        "  qcity page                                  # http://127.0.0.1:7860\n"
        "  qcity page --keep hf-jobs --host 0.0.0.0    # as in a container: for others, and a keeper with it",
        ("cli.page", "page"),
    )
    page.add_argument("--port", type=int, default=7860, help="7860 by default; 0: a free one")
    page.add_argument("--host", default="127.0.0.1", help="which address to listen on; by default this machine's own")
    page.add_argument(
        "--keep",
        type=_hosts,
        nargs="?",
        const=(),
        metavar="HOST[,HOST]",
        help="be a keeper too, for these hosts or all",
    )
    with_store(page)

    init = command(
        "init",
        "lay a template into a new project directory",
        "  qcity init my-project\n  qcity init digits my-project\n  qcity init space my-space",
        ("cli.run", "init"),
    )
    init.add_argument("template", nargs="?", metavar="TEMPLATE", help="which template; the first one by default")
    init.add_argument("directory", metavar="DIR")

    _hub(command)

    demo = command(
        "demo",
        "train on the digits, kill the host again and again, and compare with an undisturbed run",
        "  qcity demo\n"
        "  qcity hub serve &                                    # a Hub emulator on this machine\n"
        "  export HF_ENDPOINT=http://127.0.0.1:8000 HF_TOKEN=any    # as it says\n"
        "  qcity demo --store hf://user/demo --on hf-jobs       # jobs killed in an upload and in a commit",
        ("cli.demo", "demo"),
    )
    demo.add_argument("--on", type=_hosts, metavar="HOST", help="where the killed run runs: local, or hf-jobs")
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
        sub.add_argument("--loop", metavar="NAME", help="which loop, by name or key, where the run has several")

    seq_help = "a checkpoint's number, newest or previous"
    listing = action(
        "list",
        "list the checkpoints, newest first; `qcity checkpoints RUN` does too",
        "  qcity checkpoints list train-1a2b3c-1\n  qcity checkpoints train --json",
    )
    with_json(listing)
    diff = action(
        "diff",
        "say which variables changed between two checkpoints, and by how much",
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
    export.add_argument("--format", choices=("safetensors", "dcp"), help="by default as OUT's name says")
    with_loop(export)
    prune = action(
        "prune",
        "drop older published checkpoints of a run that no living attempt holds",
        "  qcity checkpoints prune train --keep 1 --dry-run\n  qcity checkpoints prune train --keep 1",
    )
    prune.add_argument("--keep", metavar="N", type=_count, required=True, help="how many of the newest stay")
    prune.add_argument("--dry-run", action="store_true", help="only say what it would free")
    for sub in (listing, diff, verify, export, prune):
        with_store(sub)


def _hub(command: Callable[..., argparse.ArgumentParser]) -> None:
    """``qcity hub`` and what belongs to it."""
    examples = (
        "  qcity hub serve                    # any token is the user `user`\n"
        "  qcity hub serve --port 8080 --dir /tmp/hub\n"
        "  qcity hub serve --users users.toml    # a table for each token: name, role, orgs, scopes\n"
        "  qcity hub serve --fault commit-lost=2 --fault upload-slow=100000"
    )
    top = command("hub", "serve an emulator of the Hugging Face Hub, for tests", examples, None)
    actions = top.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    call = ("cli.hub", "serve")
    serve = command("serve", "serve the emulator on this machine, until Ctrl-C", examples, call, actions)
    serve.add_argument("--port", type=int, default=0, metavar="PORT", help="where to listen; default: a free port")
    serve.add_argument("--dir", metavar="DIR", help="where all is kept; default: .qcity/hub of the project")
    serve.add_argument("--users", metavar="FILE", help="users by token, as TOML or JSON; default: one, any token")
    serve.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME=N",
        help="let N calls fail in this way; for upload-slow bytes a second, for commit-slow seconds; may be repeated",
    )


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("cells are counted from 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1: the newest checkpoint stays")
    return int(text)

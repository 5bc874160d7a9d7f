"""One attempt's process: `python -m qcity_nb.engine.attempt SPEC`, where SPEC is a file with an AttemptSpec.

Exit codes are those of ``errors``: 0 succeeded, 3 the notebook's own error, 4 stopped, 5 held or taken over; and 138
if the kernel died.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from qcity_nb import codec, crashpoints
from qcity_nb.errors import NotebookInvalid, QcityError, RunStopped
from qcity_nb.records import AttemptSpec, Head
from qcity_nb.run.lease import read
from qcity_nb.settings import load
from qcity_nb.sidecar import start as sidecar
from qcity_nb.stores import open_store

__all__ = ["main"]

KERNEL_DIED = 138
"""papermill's exit code for it, too."""


def _check_desired(head: Head) -> None:
    if head.is_over:
        raise RunStopped(f"run {head.run!r} has {head.state} already")
    if head.desired.state != "running":
        raise RunStopped(f"run {head.run!r} is to be stopped")


def _run(spec: AttemptSpec) -> int:
    settings = load(Path(spec.project) if spec.project else None, {"store": spec.store})
    crashpoints.arm_plan(settings.chaos)
    store = open_store(spec.store)
    head = read(store, spec.run).head
    _check_desired(head)
    config = sidecar.config_for(
        settings,
        run=spec.run,
        attempt=spec.attempt,
        host=spec.host,
        store=spec.store,
        declared_dead=spec.declared_dead,
    )
    mailbox, process = sidecar.spawn(config)
    # At the same time: the sidecar takes the lease and fetches the checkpoint, a kernel starts, and papermill, which is
    # slow to import, is imported here.
    from qcity_nb.engine import kernel_prestart

    source = store.get(spec.run, head.source) if head.source else b""
    if not source:
        raise NotebookInvalid(f"run {spec.run!r} has no notebook in its store")
    notebook = mailbox.path / Path(head.notebook).name
    notebook.write_bytes(source)
    name, language = _name_parameters(source)
    with kernel_prestart.kernel(name, config.attempt, mailbox.path) as kernel:
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError
        from papermill.execute import execute_notebook

        from qcity_nb.engine.attempt_context import AttemptContext

        sidecar.wait_held(mailbox, process)
        context = AttemptContext(
            config=config,
            mailbox=mailbox,
            grace_s=settings.stop_grace_s,
            output=Path(spec.output) if spec.output else None,
            kernel=kernel,
        )
        try:
            execute_notebook(
                str(notebook),
                str(mailbox.executed),
                parameters=dict(head.parameters),
                engine_name="qcity",
                context=context,
                kernel_name=name,
                language=language,
                progress_bar=False,
                cwd=spec.project or None,
            )
        except PapermillExecutionError as error:
            print(error, file=sys.stderr)  # noqa: T201  # people look into the attempt's log
            return 3
        except DeadKernelError:
            return KERNEL_DIED
    return 0


def _name_parameters(source: bytes) -> tuple[str, str | None]:
    """The notebook's kernel, and a language if it names neither: papermill refuses to guess.

    Raises:
        NotebookInvalid: it is not a notebook.
    """
    try:
        metadata = json.loads(source)["metadata"]
        spec = metadata.get("kernelspec", {})
        language = spec.get("language") or metadata.get("language_info", {}).get("name")
        return str(spec.get("name") or "python3"), None if language or spec.get("name") else "python"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise NotebookInvalid(f"the run's notebook cannot be read: {error!r}") from None


def main() -> int:
    """Run the attempt that the file named on the command line specifies."""
    spec = codec.loads(AttemptSpec, Path(sys.argv[1]).read_bytes())
    try:
        return _run(spec)
    except QcityError as error:
        print(f"qcity: {error}", file=sys.stderr)  # noqa: T201  # people look into the attempt's log
        return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a library's thread must not keep a finished attempt alive

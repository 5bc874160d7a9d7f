"""Side effects of a cell outside its kernel, as far as its source shows: files that it writes, requests, commands.

Used for a journal line when cells are re-run. It finds names that usually mean a side effect. It does not see what the
notebook's own functions do, or libraries that it does not know.
"""

from __future__ import annotations

import ast
import contextlib
import re
import warnings
from collections.abc import Iterator

from qcity_nb.cells import tags
from qcity_nb.cells.names import words

__all__ = ["effects"]

_METHODS = words(
    "to_csv to_parquet to_pickle to_json to_excel to_sql to_feather to_hdf to_stata write_csv write_parquet savefig "
    "write_text write_bytes write_image write_html unlink rmdir mkdir symlink_to commit executemany "
    "save_pretrained save_model push_to_hub upload_file upload_folder upload_large_folder create_repo create_commit "
    "send_message sendmail insert_one insert_many update_one delete_one put_object upload_fileobj"
)
"""Methods of any object."""
_SENDS = words("post put patch delete request")
_FUNCTIONS = {
    "os": words("remove unlink rename replace mkdir makedirs rmdir removedirs symlink link truncate system kill popen"),
    "shutil": words("copy copy2 copyfile copytree move rmtree make_archive unpack_archive"),
    "subprocess": words("run call check_call check_output Popen getoutput"),
    "requests": _SENDS,
    "httpx": _SENDS,
    "numpy": words("save savez savez_compressed savetxt"),
    "torch": words("save"),
    "joblib": words("dump"),
    "pyplot": words("savefig imsave"),
    "mlflow": words("start_run set_tag set_tags set_experiment register_model"),
    "wandb": words("init log log_artifact save"),
    "smtplib": words("SMTP SMTP_SSL"),
}
"""Functions by module."""
_ALIASES = {"np": "numpy", "plt": "pyplot"}
_WRITES = re.compile(r"[wax+]")
_CELLS = words("bash sh script sx system writefile file !")


def effects(source: str) -> list[str]:
    """A cell's side effects by name, each once, in order: ``df.to_csv``, ``open(…, 'w')``, ``!curl``."""
    lines = tags.lines_of(source)
    if magic := tags.program_of(lines):
        return [f"%%{magic}"] if magic in _CELLS else []
    names: list[str] = []
    with contextlib.suppress(
        SyntaxError, ValueError, RecursionError, MemoryError
    ):  # a journal line must not fail a run
        try:
            tree = _parse(lines)
        except SyntaxError:  # magics are not Python
            names += [f"!{command.split()[0]}" for line in lines if (command := (tags.shell_line(line) or "").strip())]
            tree = _parse([_without_magic(line) for line in lines])
        names += _calls(tree)
    return list(dict.fromkeys(names))


def _parse(lines: list[str]) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cell's own run has shown its SyntaxWarnings
        return ast.parse("\n".join(lines))


def _without_magic(line: str) -> str:
    text = line.lstrip()
    is_magic = text.startswith("%") or tags.shell_line(line) is not None
    return f"{line[: len(line) - len(text)]}pass" if is_magic else line


def _calls(tree: ast.Module) -> Iterator[str]:
    imported = dict(_ALIASES)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imported |= {alias.asname: alias.name.rpartition(".")[2] for alias in names if alias.asname}
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    imported[alias.asname or alias.name] = f"{module.rpartition('.')[2]}.{alias.name}"
    for node in _in_order(tree):
        if isinstance(node, ast.Call) and (name := _dotted_name(node.func)):
            first, _, rest = name.partition(".")
            known = imported.get(first, first) + (f".{rest}" if rest else "")
            module, _, function = known.rpartition(".")
            module = module.rpartition(".")[2]
            if function == "open":
                if mode := _mode(node, is_method=bool(rest) and module != "io"):
                    yield f"{name}(…, {mode!r})"
            elif (
                function in _FUNCTIONS.get(module, ())
                or (module == "mlflow" and function.startswith("log_"))
                or (rest and function in _METHODS)
            ):
                yield name


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        yield from _in_order(child)


def _dotted_name(node: ast.expr) -> str:
    """The dotted name of what is called; ``…`` for parts that are not names."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted_name(value) or '…'}.{attr}"
        case ast.Call(func=func):
            return f"{_dotted_name(func) or '…'}(…)"
    return ""


def _mode(node: ast.Call, *, is_method: bool) -> str:
    """The mode of a call of `open` if it opens the file for writing."""
    place = 0 if is_method else 1
    arguments = [keyword.value for keyword in node.keywords if keyword.arg == "mode"] or node.args[place : place + 1]
    match arguments:
        case [ast.Constant(value=str(mode))] if _WRITES.search(mode):
            return mode
    return ""

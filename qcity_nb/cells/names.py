"""The names that a piece of code mentions: by which it can reach variables, and names that give access to everything.

A name counts wherever it occurs: loaded, stored, deleted, imported, as an attribute, or as a word in a string
(`df.query("a > @limit")`, `cProfile.run("f()")` and formulas look up names in strings). Nested code counts.
"""

from __future__ import annotations

import ast
import dis
import functools
import re
import sys
import types
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Mention", "in_code", "in_source", "find_names", "find_names_in_bodies", "opens", "words"]


def words(text: str) -> frozenset[str]:
    """The words of ``text``, separated by spaces."""
    return frozenset(text.split())


_OPENS = words("eval exec compile globals locals vars __import__ __builtins__ breakpoint get_ipython Out _oh _ __ ___")
"""Loaded by name, these lead to any variable (`_` and its kin are IPython's latest results)."""
_RESULT = re.compile(r"_\d+$")
_MODULES = words("__main__ builtins importlib ctypes gc inspect dill ipytest")
"""Anywhere but in plain strings, these may give access to any object."""
_IMPORTS = _MODULES | words("runpy pdb bdb code doctest unittest profile cProfile trace _ctypes cffi")
_ATTRIBUTES = words(
    "__globals__ __builtins__ __self__ f_globals f_locals f_back tb_frame gi_frame cr_frame ag_frame user_ns "
    "user_global_ns user_module _getframe _current_frames settrace setprofile __subclasses__"
)
_LATER = words(
    "call_later call_soon call_soon_threadsafe call_at create_task ensure_future add_reader add_writer "
    "add_signal_handler run_in_executor setitimer"
)
"""Code passed to these may run at any later time."""

_CODE_MAGICS = frozenset({"time", "timeit", "capture"})
_QUIET_MAGICS = words(
    "matplotlib pip conda mamba micromamba uv cd pwd ls ll mkdir cat env set_env who whos who_ls pinfo pinfo2 pdoc "
    "precision xmode colors bash sh html HTML javascript js latex markdown svg SVG writefile file sx system"
)
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class Mention:
    """The names in a piece of code, and what they may reach."""

    names: frozenset[str] = frozenset()
    everything: str = ""
    """Why the code may have reached any variable; empty: it cannot."""
    forever: bool = False
    """Does that also hold for everything after it?"""
    has_sys: bool = False
    has_modules: bool = False
    """`sys` and `modules` may be in two pieces of code: together they lead to `__main__`."""

    def __or__(self, other: Mention) -> Mention:
        return Mention(
            self.names | other.names,
            self.everything or other.everything,
            self.forever or other.forever,
            self.has_sys or other.has_sys,
            self.has_modules or other.has_modules,
        )


def _in_text(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


def _everything(loaded: set[str], attributes: set[str], imported: set[str]) -> str:
    for name in sorted(loaded):
        if name in _OPENS or _RESULT.match(name):
            return f"`{name}` leads to every variable"
    for name in sorted(loaded | attributes | imported):
        if name in _MODULES:
            return f"`{name}` leads to every object"
    for name in sorted(attributes | imported):
        if name in _ATTRIBUTES:
            return f"`.{name}` leads to a namespace"
    for name in sorted(imported):
        if name in _IMPORTS:
            return f"`{name}` runs code in the notebook's namespace"
    return ""


@functools.lru_cache(maxsize=4096)
def in_code(code: types.CodeType) -> Mention:
    """The names in ``code`` and in the code nested in it."""
    loaded, attributes, imported, texts = set[str](), set[str](), set[str](), set[str]()
    mention = Mention()
    waits: list[object] = [code.co_consts]
    for step in dis.get_instructions(code):
        if step.opcode not in dis.hasname or not isinstance(step.argval, str):
            continue
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"):
            loaded.add(step.argval)
        elif step.opname in ("IMPORT_NAME", "IMPORT_FROM"):
            imported.update(step.argval.split("."))
        elif "ATTR" in step.opname or "METHOD" in step.opname:
            attributes.add(step.argval)
        # A name that is only stored or deleted gives access to nothing (`for _ in …`); co_names includes it.
    while waits:
        value = waits.pop()
        if isinstance(value, str):
            texts |= _in_text(value)
        elif isinstance(value, bytes):
            texts |= _in_text(value.decode("latin-1"))
        elif isinstance(value, types.CodeType):
            mention |= in_code(value)
        elif isinstance(value, tuple | frozenset):
            if value == ("*",):
                mention |= Mention(everything="an import of * may bind any name")
            waits.extend(value)
    names = {part for name in code.co_names for part in name.split(".")} | texts | imported
    reason = _everything(loaded, attributes, imported)
    if not reason and "__main__" in texts:
        reason = "`__main__` leads to every variable"
    later = sorted((attributes | imported | loaded) & _LATER)
    if later:
        reason = f"code passed to `{later[0]}` may run at any time"
    return mention | Mention(
        frozenset(names),
        reason,
        forever=bool(later),
        has_sys="sys" in names,
        has_modules="modules" in names,
    )


class _Magics(ast.NodeTransformer):
    """Removes the calls of harmless magics from a cell, and collects the names in them."""

    def __init__(self) -> None:
        self.mention = Mention()

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Call(func=ast.Name(id="get_ipython"), args=[], keywords=[]), attr=method),
                args=[*arguments],
                keywords=[],
            ) if all(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in arguments):
                texts = [str(each.value) for each in arguments if isinstance(each, ast.Constant)]
                if (known := _of_magic(method, texts)) is not None:
                    self.mention |= known
                    return ast.Constant(value=None)
        return self.generic_visit(node)


def _of_magic(method: str, texts: list[str]) -> Mention | None:
    if method in ("system", "getoutput") and len(texts) == 1:
        return _in_expanded_line(texts[0]) | Mention(frozenset({"_exit_code"}))
    if method == "run_line_magic" and len(texts) == 2:
        name, line, body = texts[0], texts[1], ""
    elif method == "run_cell_magic" and len(texts) == 3:
        name, line, body = texts
    else:
        return None
    if name in _QUIET_MAGICS:
        return _in_expanded_line(line) | Mention(_in_text(body) | {"_exit_code"})
    if name not in _CODE_MAGICS:
        return None
    # The line of a cell magic may be code too (timeit's set-up), after options, which are not code.
    mention = _of_words(line) if line else Mention()
    return mention | (in_source(body) if body else Mention())


def _in_expanded_line(line: str) -> Mention:
    """A line in which IPython evaluates `{…}` and `$name`."""
    return _of_words(line) if "{" in line or "$" in line else Mention(_in_text(line))


def _of_words(text: str) -> Mention:
    names = set(_in_text(text))
    later = names & _LATER
    reason = _everything(names, names, names) or ("it may run at any time" if later else "")
    return Mention(frozenset(names), reason, bool(later), "sys" in names, "modules" in names)


def opens(value: object) -> str:
    """Why code that has ``value`` can reach any variable; empty: it cannot."""
    kind = type(value)
    if issubclass(kind, types.ModuleType):
        name = str(object.__getattribute__(value, "__dict__").get("__name__", ""))
        return f"the module {name} leads to every object" if name.partition(".")[0] in _IMPORTS else ""
    if kind is types.FrameType or str(kind.__module__).partition(".")[0] in ("IPython", "ipykernel"):
        return f"a {kind.__name__} leads to a namespace"
    if kind in (types.BuiltinFunctionType, types.FunctionType, types.MethodType) or issubclass(kind, type):
        name, home = str(getattr(value, "__name__", "")), str(getattr(value, "__module__", ""))
        root = home.partition(".")[0]
        if (root == "builtins" and name in _OPENS) or name in _ATTRIBUTES:
            return f"`{name}` leads to every variable"
        if root in _IMPORTS - {"builtins", "__main__"}:
            return f"`{home}.{name}` leads to every object"
    return "the table of modules leads to every variable" if value is sys.modules else ""


def in_source(source: str) -> Mention:
    """The names in a cell; ``source`` is plain Python, with magics as calls of `get_ipython()`."""
    magics = _Magics()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the cell's own run has shown its SyntaxWarnings
            tree = ast.fix_missing_locations(magics.visit(ast.parse(source)))
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(tree, "<cell>", "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Mention(everything="the cell is not plain Python")
    return in_code(code) | magics.mention


_NAME = re.compile(r"[^\W\d]\w*")


def find_names(sources: Iterable[str]) -> set[str]:
    """All words in the sources; names that code builds at run time are not found."""
    return {name for source in sources for name in _NAME.findall(source)}


def find_names_in_bodies(sources: Iterable[str]) -> set[str]:
    """The words in the functions and classes that the sources define, which later code may call."""
    names: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # magics
            names |= find_names([source])
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
                names |= find_names([ast.unparse(node)])
    return names

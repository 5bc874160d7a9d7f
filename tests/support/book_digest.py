"""What a book's last cell prints: a digest of each variable by its content, aliases and shared memory included.

    __import__("book_digest").tell(globals())

Two namespaces print the same if they behave the same: values, types, which variables are one object, which arrays
share memory, which closures share a cell, whether functions see the live namespace and objects have its classes. What
has no content to look at is told by what it does next: a generator by its next item (it is taken), a file by its
position. Identity of immutable things, addresses and pandas' copy-on-write sharing, which nobody can see, do not count.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import random
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["digests", "tell"]

_OF_IPYTHON = {"In", "Out", "exit", "quit", "get_ipython", "open"}
_OF_CLASSES = {
    "__dict__",
    "__weakref__",
    "__slotnames__",
    "__module__",
    "__firstlineno__",
    "__static_attributes__",
    "__annotate_func__",
    "__annotations_cache__",
    "__conditional_annotations__",
    "_abc_impl",
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, slice)
_SCALARS = {type(None), bool, int, float, str}
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_MODEL = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


class _Walk:
    """One look at a namespace; what it saw once it knows again."""

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._seen: dict[int, int] = {}
        self._memory: list[tuple[int, int, int]] = []
        """Low and high address of array memory, and its number."""
        self._alive: list[Any] = []
        """Nothing seen may be freed, or its address would come back as something else's."""

    def digest(self, value: Any) -> str:
        """Sixteen hex digits."""
        hashed = hashlib.blake2b(digest_size=8)
        for piece in self._of(value):
            hashed.update(f"{len(piece)}:".encode() + piece)
        return hashed.hexdigest()

    def _known(self, value: Any) -> bytes | None:
        """What to say of an object that was seen before."""
        if id(value) in self._seen:
            return f"again {self._seen[id(value)]}".encode()
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        return None

    def _shared(self, low: int, high: int) -> bytes:
        """Which memory seen before this is part of, and where in it."""
        for start, end, number in self._memory:
            if low < end and start < high:
                return f"memory {number} at {low - start}".encode()
        self._memory.append((low, high, len(self._memory)))
        return b"memory of its own"

    def _of(self, value: Any) -> Iterator[bytes]:
        kind = type(value)
        yield f"{kind.__module__}.{kind.__qualname__}".encode()
        if isinstance(value, _PLAIN) and kind.__module__ == "builtins":
            yield value if isinstance(value, bytes) else repr(value).encode(errors="surrogatepass")
            return
        if kind is types.ModuleType:
            yield value.__name__.encode()
            return
        if kind is tuple or kind is frozenset:
            yield from self._items(value)
            return
        if (known := self._known(value)) is not None:
            yield known
            return
        if kind.__module__ == "__main__":
            yield b"live" if self._namespace.get(kind.__name__) is kind else b"another class"
        yield from self._how(value)(value)

    def _how(self, value: Any) -> Callable[[Any], Iterator[bytes]]:
        """How to look into it. Libraries are asked only if somebody imported them."""
        numpy, torch, pandas, figure, widgets = (
            sys.modules.get(name) for name in ("numpy", "torch", "pandas", "matplotlib.figure", "ipywidgets")
        )
        ways: list[tuple[Any, Callable[[Any], Iterator[bytes]]]] = [
            (types.FunctionType, self._function),
            (type, self._class),
            (types.CellType, self._cell),
            (types.GeneratorType, self._generator),
            (io.IOBase, self._file),
            (random.Random, lambda each: self._of(each.getstate())),
            ((list, tuple), self._list),
            (dict, self._dict),
            (types.MappingProxyType, self._dict),
            ((set, frozenset), self._list),
            ((bytearray, memoryview), lambda each: iter((bytes(each),))),
            (types.MethodType, lambda each: self._all(each.__func__.__name__, each.__self__)),
            ((staticmethod, classmethod), lambda each: self._of(each.__func__)),
            (property, lambda each: self._all(each.fget, each.fset, each.fdel)),
            (functools.partial, lambda each: self._all(each.func, each.args, each.keywords)),
            (itertools.count, lambda each: self._of(repr(each))),
        ]
        if numpy is not None:
            ways += [
                (numpy.ndarray, self._array),
                (numpy.generic, lambda each: iter((each.tobytes(),))),
                (numpy.dtype, lambda each: iter((repr(each).encode(),))),
                (numpy.random.Generator, lambda each: self._of(each.bit_generator.state)),
                (numpy.random.RandomState, lambda each: self._of(each.get_state(legacy=False))),
            ]
        if torch is not None:
            ways += [
                (torch.Tensor, self._tensor),
                (torch.nn.Module, self._module),
                (torch.optim.Optimizer, self._optimizer),
                (torch.Generator, lambda each: self._of(each.get_state().numpy())),
                (torch.dtype, lambda each: iter((repr(each).encode(),))),
            ]
        if pandas is not None:
            ways += [
                (pandas.DataFrame, self._frame),
                (pandas.Series, lambda each: self._all(each.name, each.index, *self._values(each))),
                (pandas.Index, lambda each: self._all(list(each.names), *self._values(each))),
            ]
        if figure is not None:
            ways.append((figure.Figure, self._figure))
        if widgets is not None:
            ways.append((widgets.Widget, self._widget))
        return next((way for kinds, way in reversed(ways) if isinstance(value, kinds)), self._object)

    def _all(self, *values: Any) -> Iterator[bytes]:
        for value in values:
            yield from self._of(value)

    def _items(self, values: Any) -> Iterator[bytes]:
        yield str(len(values)).encode()
        if isinstance(values, list | tuple) and set(map(type, values)) <= _SCALARS:
            yield repr([*values]).encode(errors="surrogatepass")  # the same, faster
        elif isinstance(values, set | frozenset):
            # Their order is the process's own. They hold what cannot change, so that no identity is lost.
            yield from sorted(b"".join(_Walk(self._namespace)._of(each)) for each in values)
        else:
            yield from self._all(*values)

    def _list(self, values: Any) -> Iterator[bytes]:
        yield from self._items(values)
        yield from self._own(values)

    def _dict(self, values: Any) -> Iterator[bytes]:
        yield str(len(values)).encode()
        for key, value in values.items():
            yield from self._all(key, value)
        yield from self._own(values)

    def _own(self, value: Any) -> Iterator[bytes]:
        """The attributes of an object that has some."""
        for name, each in sorted(getattr(value, "__dict__", {}).items()):
            yield name.encode()
            yield from self._of(each)

    def _object(self, value: Any) -> Iterator[bytes]:
        kind: Any = type(value)
        if kind.__module__.startswith("pyarrow") and hasattr(value, "to_pylist"):
            yield repr(value.to_pylist()).encode()  # whether there is a bitmap of what is missing, if nothing is
            return
        if hasattr(value, "__dict__") and kind.__reduce_ex__ is object.__reduce_ex__:
            yield from self._own(value)
            return
        try:
            reduced = value.__reduce_ex__(4)
        except TypeError:
            yield _ADDRESS.sub("", repr(value)).encode()
            return
        if isinstance(reduced, str):
            yield reduced.encode()
            return
        self._alive.append(reduced)
        for part in reduced:
            if isinstance(part, Iterator):
                yield from self._all(*part)
            else:
                yield from self._of(part)

    def _class(self, value: type) -> Iterator[bytes]:
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if value.__module__ != "__main__":
            return
        yield from self._all(*value.__bases__)
        for name, each in sorted(vars(value).items()):
            if name not in _OF_CLASSES and not isinstance(
                each, types.GetSetDescriptorType | types.MemberDescriptorType
            ):
                yield name.encode()
                yield from self._of(each)

    def _function(self, value: types.FunctionType) -> Iterator[bytes]:
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if value.__module__ != "__main__":
            return
        yield b"live" if value.__globals__ is self._namespace else b"globals of its own"
        yield from self._code(value.__code__)
        yield from self._all(value.__defaults__, value.__kwdefaults__, dict(value.__dict__), value.__closure__)

    def _code(self, code: types.CodeType) -> Iterator[bytes]:
        yield code.co_code
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags)).encode()
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from self._code(const)
            else:
                yield from self._of(const)

    def _cell(self, value: types.CellType) -> Iterator[bytes]:
        try:
            content = value.cell_contents
        except ValueError:
            yield b"empty"
            return
        yield from self._of(content)

    def _generator(self, value: types.GeneratorType[Any, Any, Any]) -> Iterator[bytes]:
        yield value.__qualname__.encode()
        yield from self._of(next(value, "at its end"))

    def _file(self, value: Any) -> Iterator[bytes]:
        yield f"{value.closed}".encode()
        if value.closed:
            return
        if isinstance(value, io.StringIO | io.BytesIO):
            yield from self._all(value.getvalue(), value.tell())
            return
        name = getattr(value, "name", "")
        yield from self._all(str(name).rsplit("/", 1)[-1], getattr(value, "mode", ""), value.tell())

    def _array(self, value: Any) -> Iterator[bytes]:
        import numpy as np

        yield from self._all(str(value.dtype.descr if value.dtype.names else value.dtype), value.shape)
        if value.size:
            yield self._shared(*np.lib.array_utils.byte_bounds(value))
        flags = value.flags
        strides = () if flags.c_contiguous or flags.f_contiguous else value.strides
        yield repr((flags.c_contiguous, flags.f_contiguous, flags.writeable, strides)).encode()
        if value.dtype.hasobject:
            yield from self._all(*value.ravel().tolist())
        elif value.dtype.names:
            for name in value.dtype.names:  # what lies between the fields is nobody's
                yield np.ascontiguousarray(value[name]).tobytes()
        else:
            yield np.ascontiguousarray(value).tobytes()

    def _tensor(self, value: Any) -> Iterator[bytes]:
        plain = value.detach()
        storage = plain.untyped_storage()
        yield repr(
            (value.dtype, tuple(value.shape), value.stride(), value.requires_grad, value.grad_fn is None)
        ).encode()
        if value.numel():
            at = storage.data_ptr() + plain.storage_offset() * plain.element_size()
            yield self._shared(at, at + plain.numel() * plain.element_size())
        yield plain.contiguous().cpu().numpy().tobytes()
        if value.is_leaf:
            yield from self._of(value.grad)

    def _module(self, value: Any) -> Iterator[bytes]:
        yield str(value.training).encode()
        for name, each in [
            *value.named_parameters(recurse=False, remove_duplicate=False),
            *value.named_buffers(recurse=False, remove_duplicate=False),
            *value.named_children(),
            *sorted((key, own) for key, own in vars(value).items() if not key.startswith("_") and key != "training"),
        ]:
            yield name.encode()
            yield from self._of(each)

    def _optimizer(self, value: Any) -> Iterator[bytes]:
        for group in value.param_groups:
            yield from self._all(*group["params"])
            yield from self._of({key: own for key, own in sorted(group.items()) if key != "params"})
            for each in group["params"]:
                yield from self._of(dict(sorted(value.state.get(each, {}).items())))

    def _values(self, value: Any) -> Iterator[Any]:
        """The values of a pandas object, copied: what shares memory under copy-on-write cannot be seen."""
        yield str(value.dtype)
        is_plain = value.dtype.kind in "biufcmM" and hasattr(value.dtype, "str")
        yield value.to_numpy(copy=True).tobytes() if is_plain else value.tolist()

    def _frame(self, value: Any) -> Iterator[bytes]:
        yield from self._all(list(value.columns), value.index, dict(value.attrs))
        for n in range(value.shape[1]):
            column = value.iloc[:, n]
            yield from self._all(column.name, *self._values(column))

    def _figure(self, value: Any) -> Iterator[bytes]:
        yield from self._all(*map(float, value.get_size_inches()), float(value.dpi))
        for axes in value.axes:
            yield from self._all(axes.get_title(), axes.get_xlabel(), axes.get_ylabel())
            yield from self._all(*map(float, (*axes.get_xlim(), *axes.get_ylim())))
            for line in axes.lines:
                yield from self._all(line.get_label(), line.get_xydata().tobytes(), str(line.get_color()))
            yield from self._all(len(axes.patches), len(axes.collections), len(axes.images))

    def _widget(self, value: Any) -> Iterator[bytes]:
        state = {key: each for key, each in value.get_state().items() if not str(each).startswith("IPY_MODEL_")}
        yield _MODEL.sub("", repr(sorted(state.items()))).encode()


def digests(namespace: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Type and digest of each variable of the user, and of IPython's ``In`` and ``Out``, by name."""
    walk = _Walk(namespace)
    names = sorted(name for name in namespace if not name.startswith("_") and name not in _OF_IPYTHON)
    # Generators last: what they yield next may change what others hold.
    names.sort(key=lambda name: type(namespace[name]) is types.GeneratorType)
    digest_of = {name: (type(namespace[name]).__name__, walk.digest(namespace[name])) for name in names}
    if "Out" in namespace:
        digest_of["Out"] = (f"of {list(namespace['Out'])}", walk.digest(namespace["Out"]))
        digest_of["In"] = (f"of {len(namespace['In'])}", walk.digest([*namespace["In"]]))
    return digest_of


def tell(namespace: Mapping[str, Any]) -> None:
    """Print them, a line each."""
    for name, (kind, digest) in digests(namespace).items():
        print(f"{name}: {kind} {digest}")  # noqa: T201  # the cell's output is what is compared

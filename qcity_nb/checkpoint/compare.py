"""Two states side by side: which variables differ, and by how much.

    for change in compare(before, after): …        # both as capture.load gave them

Numbers are compared as float64; types that numpy does not have (bfloat16, float8) are converted to float32 first. NaN
equals NaN, and 0.0 equals -0.0. Large arrays are compared in pieces, so that little extra memory is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from qcity_nb.checkpoint.formats.flat import is_numpy, is_torch
from qcity_nb.checkpoint.state.kinds import kind_of
from qcity_nb.checkpoint.state.pickling import StateDict, has_state_dict
from qcity_nb.checkpoint.state.unsaveable import children

__all__ = ["Difference", "compare"]

_PIECE = 1 << 20
"""Elements that are compared at once."""
_SHOWN = 40
"""Characters of a value's repr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One variable that is in both states or in one of them; ``equal`` ones are reported too."""

    path: str
    what: Literal["equal", "changed", "added", "removed"]
    kind: str = ""
    """dtype and shape, or the type; ``before -> after`` if it changed."""
    count: int = 0
    """Elements that changed."""
    size: int = 0
    """Number of elements; 0 if it is not an array, or its shape or dtype changed."""
    max_change: float | None = None
    """The largest absolute difference; NaN if NaNs appeared or disappeared."""
    relative: float | None = None
    """L2 norm of the difference, divided by that of the value before."""
    before: str = ""
    after: str = ""
    """Values that are not arrays, shortened."""


def compare(before: object, after: object) -> Iterator[Difference]:
    """Every variable of two states, in the order of the second; removed ones last."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    for path, value in new.items():
        if path in old:
            yield _difference(path, old.pop(path), value)
        else:
            yield Difference(path=path, what="added", kind=_kind(value), after=_shown(value))
    for path, value in old.items():
        yield Difference(path=path, what="removed", kind=_kind(value), before=_shown(value))


@dataclass(frozen=True, slots=True)
class _Alias:
    """The same object as one that was visited before."""

    path: str

    def __repr__(self) -> str:
        return f"the same object as {self.path}"


def _leaves(root: object) -> Iterator[tuple[str, Any]]:
    """Values without parts of their own, by path; a container that is visited again is an ``_Alias``."""
    seen: dict[int, str] = {}
    alive: list[object] = []
    stack: list[tuple[str, object]] = [("", root)]
    while stack:
        path, value = stack.pop()
        is_container = (
            isinstance(value, StateDict)
            or has_state_dict(value)
            or kind_of(value) in ("dict", "list", "tuple", "object")
        )
        parts = list(children(value)) if is_container else []
        if not parts or (isinstance(value, list | tuple) and _is_short(value)):
            yield path or "state", value
            continue
        if id(value) in seen:
            yield path, _Alias(seen[id(value)] or "state")
            continue
        seen[id(value)] = path
        alive.append(value)  # state_dict() returns a new dict: keep it alive, so that no other object gets its id
        named = [(_path(path, suffix), item) for suffix, item in parts]
        stack.extend(reversed(named))


def _is_short(value: list[Any] | tuple[Any, ...]) -> bool:
    """Plain values only: shown as one value."""
    return all(item is None or type(item) in (bool, int, float, str) for item in value)


def _path(path: str, suffix: str) -> str:
    """``['model']`` at the top is ``model``."""
    name = suffix[2:-2] if suffix.startswith(("['", '["')) else ""
    return name if not path and name.isidentifier() else f"{path or 'state'}{suffix}"


def _is_array(value: object) -> bool:
    return is_torch(value) or is_numpy(value)


def _kind(value: Any) -> str:
    if _is_array(value):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype} {list(value.shape)}"
    return "" if isinstance(value, _Alias) else type(value).__qualname__


def _shown(value: Any) -> str:
    if _is_array(value):
        return ""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - a repr may run any code
        text = f"<{type(value).__qualname__}>"
    if " at 0x" in text:
        return ""  # an address says nothing
    if len(text) <= _SHOWN:
        return text
    count = f" ({len(value)} items)" if isinstance(value, list | tuple | dict | set) else ""
    return f"{text[: _SHOWN - 3 - len(count)]}...{count}"


def _difference(path: str, old: Any, new: Any) -> Difference:
    kinds = [_kind(old), _kind(new)]
    kind = kinds[1] if kinds[0] == kinds[1] else " -> ".join(kinds)
    if _is_array(old) and _is_array(new) and kinds[0] == kinds[1]:
        return _numbers(path, kind, old, new)
    if kinds[0] == kinds[1] and _is_equal(old, new):
        return Difference(path=path, what="equal", kind=kind)
    return Difference(path=path, what="changed", kind=kind, before=_shown(old), after=_shown(new))


def _is_equal(old: Any, new: Any) -> bool:
    with contextlib.suppress(Exception):  # a comparison may run any code
        if old is new or bool(old == new):
            return True
    if kind_of(old) == "torch generator":
        return bool((old.get_state() == new.get_state()).all())
    try:
        return pickle.dumps(old, 5) == pickle.dumps(new, 5)
    except Exception:  # noqa: BLE001 - the same
        return False


def _flat(value: Any) -> Any:
    """A flat numpy array of the same bits, or of float32 if numpy lacks the type; ``None`` if impossible."""
    if is_numpy(value):
        return value.reshape(-1)
    try:
        tensor = value.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
        name = str(tensor.dtype)
        if name.startswith(("torch.bfloat16", "torch.float8")):
            tensor = tensor.float()
        return tensor.numpy()
    except (RuntimeError, TypeError, NotImplementedError):
        return None  # sparse, quantized, packed: compared by their pickles


def _numbers(path: str, kind: str, old: Any, new: Any) -> Difference:
    left, right = _flat(old), _flat(new)
    if left is None or right is None or left.dtype.kind not in "biufc":
        equal = _is_same_array(left, right) if left is not None and right is not None else _is_equal(old, new)
        return Difference(path=path, what="equal" if equal else "changed", kind=kind)
    numpy = importlib.import_module("numpy")
    count, largest, squares, norm = 0, 0.0, 0.0, 0.0
    with numpy.errstate(all="ignore"):
        for start in range(0, len(left), _PIECE):
            a, b = left[start : start + _PIECE], right[start : start + _PIECE]
            are_nan = (a != a) & (b != b)
            differs = (a != b) & ~are_nan
            wide = numpy.complex128 if left.dtype.kind == "c" else numpy.float64
            a = a.astype(wide)
            a[are_nan] = 0
            norm += float(numpy.vdot(a, a).real)
            changed = int(numpy.count_nonzero(differs))
            if changed:
                step = numpy.abs(b[differs].astype(wide) - a[differs])
                count += changed
                largest = float(numpy.maximum(largest, step.max()))
                squares += float(step @ step)
    if not count:
        return Difference(path=path, what="equal", kind=kind, size=len(left))
    relative = float("inf") if norm == 0 else float((squares / norm) ** 0.5)
    return Difference(
        path=path, what="changed", kind=kind, count=count, size=len(left), max_change=largest, relative=relative
    )


def _is_same_array(left: Any, right: Any) -> bool:
    """For text, times, structures and objects: equal, or not."""
    if not left.dtype.hasobject:
        return bool(left.tobytes() == right.tobytes())
    return all(_is_equal(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True))

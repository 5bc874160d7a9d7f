"""Settings of computation and display: matplotlib, numpy, pandas, scikit-learn."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from qcity_nb.namespace.environment.library import Library

__all__ = ["LIBRARIES"]

_CYCLER, _FORMAT, _FUNCTION = "cycler", "format", "function"
"""The only key of a record: of a color cycle, of a string's `format`, and of another function by its name."""


def _function(value: Any) -> dict[str, str]:
    text = getattr(value, "__self__", None)
    if isinstance(text, str) and value == text.format:
        return {_FORMAT: str(text)}
    return {_FUNCTION: getattr(value, "__qualname__", type(value).__qualname__)}


def _is_function(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {_FUNCTION}


def _restore_function(value: Any) -> Any:
    return value[_FORMAT].format if isinstance(value, Mapping) and value.keys() == {_FORMAT} else value


def _lost_message(option: str, name: str) -> str:
    return f"{option} was the function {name}, which is not restored: set it in a cell tagged qcity-rerun."


def _rc_params() -> Iterator[tuple[str, Any]]:
    matplotlib: Any = sys.modules.get("matplotlib")
    defaults = getattr(matplotlib, "rcParamsDefault", None)
    if defaults is None:
        return
    for name in sorted(dict.keys(defaults)):  # rcParams' own iterator resets which warnings Python has shown
        # The backend belongs to the host; reading it in the usual way would load one.
        if name.startswith("backend") or name == "interactive":
            continue
        value = dict.__getitem__(matplotlib.rcParams, name)
        if value != dict.__getitem__(defaults, name):
            yield name, {_CYCLER: value.by_key()} if hasattr(value, "by_key") else value


def _put_rc_params(name: str, value: Any) -> None:
    matplotlib = importlib.import_module("matplotlib")
    if isinstance(value, Mapping):
        value = matplotlib.rcsetup.cycler(**value[_CYCLER])
    matplotlib.rcParams[name] = value


_NUMPY_DEFAULTS: dict[str, Any] = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "legacy": False,
}


def _print_options() -> Iterator[tuple[str, Any]]:
    numpy: Any = sys.modules.get("numpy")
    if not hasattr(numpy, "get_printoptions"):
        return
    for name, value in numpy.get_printoptions().items():
        if name == "formatter" and value:
            yield name, {kind: _function(each) for kind, each in value.items() if each is not None}
        elif name in _NUMPY_DEFAULTS and value != _NUMPY_DEFAULTS[name]:
            yield name, value


def _put_print_options(name: str, value: Any) -> Iterator[str]:
    if name == "formatter":
        for kind, each in value.items():
            if _is_function(each):
                yield _lost_message(f"numpy's formatter of {kind}", each[_FUNCTION])
        value = {kind: _restore_function(each) for kind, each in value.items() if not _is_function(each)}
    importlib.import_module("numpy").set_printoptions(**{name: value})


_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


def _errors() -> Iterator[tuple[str, Any]]:
    numpy: Any = sys.modules.get("numpy")
    if hasattr(numpy, "geterr"):
        yield from ((kind, what) for kind, what in numpy.geterr().items() if what != _ERRORS.get(kind))


def _put_errors(kind: str, what: Any) -> Iterator[str]:
    numpy = importlib.import_module("numpy")
    if what in ("call", "log") and numpy.geterrcall() is None:
        yield f"np.seterr({kind}={what!r}) is not restored: it needs np.seterrcall, whose function is not saved."
    else:
        numpy.seterr(**{kind: what})


def _registered_options() -> Mapping[str, Any]:
    config: Any = sys.modules.get("pandas._config.config")
    return getattr(config, "_registered_options", {})


def _pandas_options() -> Iterator[tuple[str, Any]]:
    pandas: Any = sys.modules.get("pandas")
    for name, option in list(_registered_options().items()):
        if not name.startswith(("display.", "plotting.", "styler.")):
            continue  # options of computation are up to the code; some of those warn when they are read
        value = pandas.get_option(name)
        if value != option.defval:
            yield name, _function(value) if callable(value) else value


def _put_pandas_options(name: str, value: Any) -> Iterator[str]:
    if _is_function(value):
        yield _lost_message(f"pandas' option {name}", value[_FUNCTION])
    else:
        importlib.import_module("pandas").set_option(name, _restore_function(value))


def _sklearn_config() -> Iterator[tuple[str, Any]]:
    sklearn: Any = sys.modules.get("sklearn")
    # `set_config` changes the thread's own copy: this one keeps the defaults.
    defaults = getattr(sys.modules.get("sklearn._config"), "_global_config", None)
    if defaults is None or not hasattr(sklearn, "get_config"):
        return
    for name, value in sklearn.get_config().items():
        if value != defaults.get(name):
            yield name, value


def _put_sklearn_config(name: str, value: Any) -> None:
    importlib.import_module("sklearn").set_config(**{name: value})


LIBRARIES = (
    Library("matplotlib", _rc_params, _put_rc_params),
    Library("numpy", _print_options, _put_print_options),
    Library("numpy.seterr", _errors, _put_errors),
    Library("pandas", _pandas_options, _put_pandas_options),
    Library("sklearn", _sklearn_config, _put_sklearn_config),
)

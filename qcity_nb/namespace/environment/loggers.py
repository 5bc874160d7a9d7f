"""Settings of loggers: their levels, and handlers that write plain lines to a stream or a file."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qcity_nb.namespace.environment.library import Library, is_safe
from qcity_nb.namespace.environment.portable_paths import resolve, to_portable

__all__ = ["libraries"]

_STYLES: dict[type, str] = {
    logging.PercentStyle: "%",
    logging.StrFormatStyle: "{",
    logging.StringTemplateStyle: "$",
}


def _loggers() -> Iterator[tuple[str, logging.Logger]]:
    yield "root", logging.root
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger):  # others are placeholders
            yield name, logger


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _format_record(formatter: logging.Formatter | None) -> dict[str, Any] | None:
    """The format of lines; ``None``: it is not a plain format."""
    if formatter is None:
        return {}
    style = getattr(formatter, "_style", None)
    if type(formatter) is not logging.Formatter or type(style) not in _STYLES or getattr(style, "_defaults", None):
        return None
    lines = {"format": formatter._fmt, "style": _STYLES[type(style)]}
    return {**lines, "datefmt": formatter.datefmt} if formatter.datefmt else lines


def _stream(handler: logging.StreamHandler[Any]) -> str | None:
    for name in ("stderr", "stdout"):
        if handler.stream is not None and handler.stream in (getattr(sys, name), getattr(sys, f"__{name}__")):
            return name
    return None


def _handler(handler: logging.Handler, root: Path) -> dict[str, Any]:
    """A handler as JSON values; only its ``kind`` if it cannot be re-created."""
    odd = {"kind": _kind(handler)}
    lines = _format_record(handler.formatter)
    if lines is None or handler.filters:
        return odd
    if type(handler) is logging.FileHandler:
        options = {"encoding": handler.encoding, "errors": getattr(handler, "errors", None)}
        where = {
            "file": to_portable(Path(handler.baseFilename), root),
            **{key: each for key, each in options.items() if each},
        }
    elif type(handler) is logging.StreamHandler and (stream := _stream(handler)) is not None:
        where = {"stream": stream}
    else:
        return odd
    record = {**where, "level": handler.level, **lines}
    return record if is_safe("handler", record) else odd


def _by_its_package(logger: str, handler: logging.Handler) -> bool:
    """Did the package with the logger's name set it up? Then importing the package does so again."""
    package = logger.partition(".")[0]
    if package == "__main__":
        return False
    parts = (handler, handler.formatter, *handler.filters)
    return any(type(part).__module__.partition(".")[0] == package for part in parts)


def _logger_settings(name: str, logger: logging.Logger, root: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if logger.level or name == "root":
        settings["level"] = logger.level
    if logger.disabled:
        settings["disabled"] = True
    if any(_by_its_package(name, each) for each in logger.handlers):
        return settings
    if not logger.propagate:
        settings["propagate"] = False
    handlers = [_handler(each, root) for each in logger.handlers if type(each) is not logging.NullHandler]
    if handlers:
        settings["handlers"] = handlers
        if name.partition(".")[0] in sys.modules:
            settings["imported"] = True
    if logger.filters:
        settings["filters"] = [_kind(each) for each in logger.filters]
    return settings


def _make_handler(record: Mapping[str, Any], root: Path) -> logging.Handler:
    handler: logging.Handler
    if "file" in record:
        path = resolve(record["file"], root)
        # Keep what the earlier kernel wrote, and create no file before the first line.
        handler = logging.FileHandler(
            path, mode="a", encoding=record.get("encoding"), delay=True, errors=record.get("errors")
        )
    else:
        handler = logging.StreamHandler(getattr(sys, "stdout" if record["stream"] == "stdout" else "stderr"))
    handler.setLevel(record["level"])
    if "format" in record:
        handler.setFormatter(logging.Formatter(record["format"], record.get("datefmt"), record["style"]))
    return handler


def _variables() -> list[logging.Handler]:
    """The handlers that are variables of the notebook."""
    return [each for each in list(vars(sys.modules["__main__"]).values()) if isinstance(each, logging.Handler)]


class _Loggers:
    """The loggers; their current settings are the initial ones."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._before = {name: _logger_settings(name, logger, root) for name, logger in _loggers()}
        self._initial_ids = {id(each) for _, logger in _loggers() for each in logger.handlers}

    def look(self) -> Iterator[tuple[str, Any]]:
        for name, logger in _loggers():
            settings = _logger_settings(name, logger, self._root)
            if settings != self._before.get(name, {}) and is_safe("logger", name):
                yield name, settings

    def put(self, name: str, settings: Any) -> Iterator[str]:
        if settings.get("imported"):
            # If the package were imported later, it would add its handlers a second time.
            with contextlib.suppress(Exception):
                importlib.import_module(name.partition(".")[0])
        logger = logging.getLogger(None if name == "root" else name)
        logger.setLevel(settings.get("level", logging.NOTSET))
        logger.disabled = bool(settings.get("disabled"))
        if any(_by_its_package(name, each) for each in logger.handlers):
            return
        logger.propagate = bool(settings.get("propagate", True))
        handlers: list[logging.Handler] = []
        for record in settings.get("handlers", ()):
            same = [each for each in logger.handlers if each not in handlers and _handler(each, self._root) == record]
            named = [each for each in _variables() if each not in handlers and _handler(each, self._root) == record]
            if same or named:
                handlers.append((same or named)[0])
            elif "kind" in record:
                yield self._sentence(f"{record['kind'].rpartition('.')[2]} of the logger {name}")
            elif "file" in record and not resolve(record["file"], self._root).parent.is_dir():
                yield f"The logger {name} wrote to {record['file']}, whose directory does not exist here."
            else:
                handlers.append(_make_handler(record, self._root))
        for handler in list(logger.handlers):
            if (
                handler not in handlers
                and id(handler) in self._initial_ids
                and type(handler) is not logging.NullHandler
            ):
                logger.removeHandler(handler)  # the notebook removed it
        for handler in handlers:
            logger.addHandler(handler)  # an existing one is not added twice
        there = [_kind(each) for each in logger.filters]
        for kind in settings.get("filters", ()):
            if kind not in there:
                yield self._sentence(f"{kind.rpartition('.')[2]} that filters the logger {name}")

    @staticmethod
    def _sentence(what: str) -> str:
        return f"The {what} is not restored: add it in a cell tagged qcity-rerun."


def _look() -> Iterator[tuple[str, Any]]:
    if logging.root.manager.disable:
        yield "disable", logging.root.manager.disable
    if getattr(logging, "_warnings_showwarning", None) is not None:
        yield "captureWarnings", True


def _put(name: str, value: Any) -> None:
    if name == "disable":
        logging.disable(value)
    else:
        logging.captureWarnings(bool(value))


def libraries(root: Path) -> tuple[Library, ...]:
    """The settings of each logger, and those of all of them.

    Args:
        root: the project's directory.
    """
    loggers = _Loggers(root)
    # `captureWarnings` must be outside `catch_warnings`, which restores the old way of showing warnings.
    return Library("loggers", loggers.look, loggers.put), Library("logging", _look, _put, is_quiet=False)

"""The settings inside libraries that a notebook changed: one table of libraries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qcity_nb.namespace.environment import display, interpreter, loggers, torch_settings, warning_filters
from qcity_nb.namespace.environment.library import Library, is_safe

__all__ = ["Options"]


class Options:
    """Remembers the settings of libraries when the kernel began.

    Args:
        root: the project's directory.
    """

    def __init__(self, root: Path) -> None:
        self._libraries: tuple[Library, ...] = (
            *display.LIBRARIES,
            torch_settings.LIBRARY,
            interpreter.library(),
            *loggers.libraries(root),
            warning_filters.library(),  # last: imports by the others add filters of their own
        )

    def look(self) -> dict[str, dict[str, Any]]:
        """The settings that the notebook changed, by library and name.

        Does not: warn or raise; settings that cannot be read, or look like a secret, are left out.
        """
        # No `catch_warnings` here: it resets which warnings Python has shown.
        changed = {library.name: dict(_read(library)) for library in self._libraries}
        return {name: options for name, options in changed.items() if options}

    def put(self, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Set these settings.

        Returns: a sentence for each that could not be set.
        """
        return [
            sentence for library in self._libraries for sentence in _try_to_set(library, settings.get(library.name, {}))
        ]


def _read(library: Library) -> Iterator[tuple[str, Any]]:
    settings = iter(library.look())
    while True:
        try:
            name, value = next(settings)
        except StopIteration:
            return
        except Exception:  # noqa: BLE001 - a setting that a release has removed must not fail the snapshot
            return
        if is_safe(name, value):
            yield name, value


def _try_to_set(library: Library, options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        try:
            if library.is_quiet:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield from library.put(name, value) or ()
            else:
                yield from library.put(name, value) or ()
        except Exception as error:  # noqa: BLE001 - an option that this release lacks must not fail a restore
            yield f"{library.name}'s option {name} could not be set to {value!r} ({type(error).__name__})."

"""papermill's entry point: a name for the engine that imports nothing.

papermill loads all engines while it is itself being imported, so this module must not import papermill.
"""

from __future__ import annotations

from typing import Any

__all__ = ["QcityEngine"]


class QcityEngine:
    """Stands for ``qcity_nb.engine.engine.QcityEngine``, which does the work."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, *args: Any, **kwargs: Any) -> Any:
        """Execute ``nb`` as a durable run; see the engine."""
        from qcity_nb.engine import kernel_prestart
        from qcity_nb.engine.paths import path_of

        if kwargs.get("context") is not None:
            return _engine().execute_notebook(nb, kernel_name, *args, **kwargs)
        with kernel_prestart.start(path_of(kwargs.get("input_path")), kernel_name) as start:
            return _engine().execute_notebook(nb, kernel_name, *args, start=start, **kwargs)

    @classmethod
    def nb_kernel_name(cls, nb: Any, name: str | None = None) -> Any:
        """The kernel that the notebook, or ``name``, asks for."""
        from papermill.utils import nb_kernel_name

        return nb_kernel_name(nb, name)

    @classmethod
    def nb_language(cls, nb: Any, language: str | None = None) -> Any:
        """The notebook's language."""
        from papermill.utils import nb_language

        return nb_language(nb, language)


def _engine() -> Any:
    from qcity_nb.engine.engine import QcityEngine as Engine

    return Engine

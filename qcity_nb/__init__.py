"""Notebooks that outlive their hosts.

    import qcity_nb as qcity

    city = qcity.up()
    for epoch in city.loop(range(100), state={"model": model, "optimizer": optimizer}):
        city.log(loss=train(model, optimizer))

The import is lazy: nothing below is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcity_nb.version import __version__

if TYPE_CHECKING:
    from qcity_nb.city import City as City
    from qcity_nb.city import up as up
    from qcity_nb.kernel.save_policy import every_steps as every_steps
    from qcity_nb.kernel.save_policy import every_time as every_time
    from qcity_nb.kernel.save_policy import on_best as on_best


__all__ = [
    "City",
    "__version__",
    "every_steps",
    "every_time",
    "load_ipython_extension",
    "on_best",
    "unload_ipython_extension",
    "up",
]

_WHERE = {
    "up": "qcity_nb.city",
    "City": "qcity_nb.city",
    "every_steps": "qcity_nb.kernel.save_policy",
    "every_time": "qcity_nb.kernel.save_policy",
    "on_best": "qcity_nb.kernel.save_policy",
}


def __getattr__(name: str) -> object:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'qcity_nb' has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext qcity_nb`: cells run by hand are skipped if they finished in an earlier kernel."""
    from qcity_nb import city
    from qcity_nb.interactive import extension

    extension.load(shell, lambda: city.up().session)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext qcity_nb`: every cell runs again as without the extension."""
    from qcity_nb.interactive import extension

    extension.unload(shell)

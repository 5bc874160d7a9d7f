"""Settings of torch: computation and printing."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from qcity_nb.namespace.environment.library import Library

__all__ = ["LIBRARY"]


@dataclass(frozen=True, slots=True)
class _Setting:
    default: Any
    look: Callable[[Any], Any]
    put: Callable[[Any, Any], object]


def _flag(name: str) -> _Setting:
    return _Setting(
        default=False,
        look=lambda torch: getattr(torch.backends.cudnn, name),
        put=lambda torch, value: setattr(torch.backends.cudnn, name, value),
    )


def _threads(torch: Any) -> int | None:
    """The number of computing threads; ``None`` if it is a default of this machine.

    torch does not tell its default afterwards: it is the number in the environment, else that of the processors, or of
    their cores with MKL. Any of these counts as unchanged, so that another host uses its own.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    psutil: Any = sys.modules.get("psutil")  # installed with ipykernel
    cores = psutil.cpu_count(logical=False) if psutil is not None else None
    counts = [os.environ.get(name, "").partition(",")[0] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    now: int = torch.get_num_threads()
    return None if now in (processors, cores, *(int(each) for each in counts if each.isdigit())) else now


def _put_device(torch: Any, name: str) -> None:
    torch.empty(0, device=name)  # set_default_device does not check it, and each later line would fail
    torch.set_default_device(name)


def _printing(torch: Any) -> dict[str, Any]:
    options = torch._tensor_str.PRINT_OPTS
    default = dataclasses.asdict(type(options)())
    return {name: value for name, value in dataclasses.asdict(options).items() if value != default[name]}


_SETTINGS: dict[str, _Setting] = {
    "num_threads": _Setting(None, _threads, lambda torch, value: torch.set_num_threads(value)),
    "default_dtype": _Setting(
        "float32",
        lambda torch: str(torch.get_default_dtype()).removeprefix("torch."),
        lambda torch, value: torch.set_default_dtype(getattr(torch, value)),
    ),
    "default_device": _Setting("cpu", lambda torch: str(torch.get_default_device()), _put_device),
    "deterministic_algorithms": _Setting(
        [False, False],
        lambda torch: [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ],
        lambda torch, value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "cudnn.benchmark": _flag("benchmark"),
    "cudnn.deterministic": _flag("deterministic"),
    "float32_matmul_precision": _Setting(
        "highest",
        lambda torch: torch.get_float32_matmul_precision(),
        lambda torch, value: torch.set_float32_matmul_precision(value),
    ),
    "grad_enabled": _Setting(
        True, lambda torch: torch.is_grad_enabled(), lambda torch, value: torch.set_grad_enabled(value)
    ),
    "detect_anomaly": _Setting(
        [False, True],
        lambda torch: [torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()],
        lambda torch, value: torch.autograd.set_detect_anomaly(*value),
    ),
    "printoptions": _Setting({}, _printing, lambda torch, value: torch.set_printoptions(**value)),
}
"""Inter-op threads are not in the table: they cannot be set once torch has computed."""


def _now(torch: Any, setting: _Setting) -> Any:
    try:
        return setting.look(torch)
    except Exception:  # noqa: BLE001 - a release may have removed it
        return setting.default


def _look() -> Iterator[tuple[str, Any]]:
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        current = ((name, _now(torch, setting)) for name, setting in _SETTINGS.items())
        yield from ((name, value) for name, value in current if value != _SETTINGS[name].default)


def _put(name: str, value: Any) -> None:
    _SETTINGS[name].put(importlib.import_module("torch"), value)


LIBRARY = Library("torch", _look, _put)

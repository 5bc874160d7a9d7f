"""The installs that tests/test_colab_images.py resolves: the core as pyproject.toml has it, and plants."""

from __future__ import annotations

import tomllib
from pathlib import Path

__all__ = ["CASES", "PROJECT"]

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_CORE: list[str] = PROJECT["dependencies"]

CASES: dict[str, list[str]] = {
    "core": _CORE,
    "core, any databricks-sdk": [line for line in _CORE if not line.startswith("databricks-sdk")],
    "core and ipykernel": [*_CORE, "ipykernel"],
    "core and huggingface_hub>=2": [*_CORE, "huggingface_hub>=2"],
    "huggingface_hub>=2": ["huggingface_hub>=2"],
    "ipywidgets>=8": ["ipywidgets>=8"],
    "mlflow-skinny": ["mlflow-skinny"],
}

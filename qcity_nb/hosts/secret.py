"""Secrets: from the environment, or from the host's own secrets. Never from a file, never into a log."""

from __future__ import annotations

import os

from qcity_nb.errors import UsageError
from qcity_nb.hosts.detect import DetectedHost
from qcity_nb.secrets import note_asked

__all__ = ["find"]


def find(name: str, host: DetectedHost) -> str:
    """The secret's value.

    Raises:
        UsageError: there is none; the message says where this host keeps secrets.
    Does not: store, print or pass it on.
    """
    value = os.environ.get(name) or _ask(name, host)
    note_asked(name, value)
    return value


def _ask(name: str, host: DetectedHost) -> str:
    if host.name == "colab":
        return _colab(name)
    if host.name == "kaggle":
        return _kaggle(name)
    raise UsageError(f"no secret {name!r}: set the environment variable {name} before the kernel starts")


def _colab(name: str) -> str:
    where = f"add {name} under the key symbol at Colab's left edge, and allow this notebook to read it"
    try:
        from google.colab import userdata

        return str(userdata.get(name))
    except Exception as error:  # noqa: BLE001  # three types, not importable elsewhere, with the same meaning
        raise UsageError(f"no secret {name!r} ({type(error).__name__}): {where}") from None


def _kaggle(name: str) -> str:
    where = f"attach {name} under Add-ons > Secrets"
    try:
        from kaggle_secrets import UserSecretsClient

        return str(UserSecretsClient().get_secret(name))
    except Exception as error:  # noqa: BLE001  # the client's errors are not importable elsewhere
        raise UsageError(f"no secret {name!r} ({type(error).__name__}): {where}") from None

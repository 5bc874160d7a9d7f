"""What a job is to run, as the API takes it and as it says it back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qcity_nb.testing.emulators.hub.hardware import FLAVORS
from qcity_nb.testing.emulators.hub.web import HubError, Request

__all__ = ["DEFAULT_TIMEOUT_S", "answer_spec", "read_body", "read_labels", "read_ports", "read_spec", "read_strings"]

DEFAULT_TIMEOUT_S = 30 * 60
"""Source: docs/jobs/configuration.md of huggingface/hub-docs."""

_LABEL = re.compile(r"[a-zA-Z0-9._-]{0,100}")
_ARCHITECTURES = ("amd64", "arm64")


def _invalid(field: str, expected: str) -> HubError:
    return HubError(400, f"Invalid input: expected {expected}, at {field}")


def read_body(request: Request) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        HubError: 400, it is something else.
    """
    body = request.json()
    if not isinstance(body, dict):
        raise _invalid("body", "object")
    return body


def read_strings(value: Any, field: str) -> dict[str, str]:
    """A table of strings, empty if it is missing.

    Raises:
        HubError: 400, it is not one.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(field, "record")
    for name, text in value.items():
        if not isinstance(text, str):
            raise _invalid(f"{field}.{name}", "string")
    return dict(value)


def read_labels(value: Any) -> dict[str, str]:
    """Labels; the same errors."""
    labels = read_strings(value, "labels")
    for name, text in labels.items():
        if not name or not _LABEL.fullmatch(name) or not _LABEL.fullmatch(text):
            raise _invalid(f"labels.{name}", "at most 100 letters, digits, dots, dashes and underscores")
    return labels


def read_ports(value: Any) -> dict[str, list[int]] | None:
    """Ports to expose; None if there are none."""
    if not value:
        return None
    if not isinstance(value, dict):
        raise _invalid("expose", "object")
    result = {name: value.get(name) or [] for name in ("ports", "portsPublic")}
    for name, ports in result.items():
        if not isinstance(ports, list) or not all(isinstance(port, int) and 0 < port < 65536 for port in ports):
            raise _invalid(f"expose.{name}", "array of ports")
    if not set(result["portsPublic"]) <= set(result["ports"]):
        raise _invalid("expose.portsPublic", "ports of expose.ports")
    return result if result["ports"] else None


def _words(value: Any, field: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _invalid(field, "array of strings")
    return list(value)


def _count(value: Any, field: str, default: int | None) -> int | None:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid(field, "number of at least 1")
    return value


def read_spec(body: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A job's spec, checked, and apart from it its secrets; the spec has only their names.

    Raises:
        HubError: 400 for what the API refuses; 501 for what it takes and the emulator cannot do.
    """
    if not isinstance(body, dict):
        raise _invalid("body", "object")
    image, space = body.get("dockerImage"), body.get("spaceId")
    if not isinstance(image or space, str) or (image and space):
        raise HubError(400, "Either spaceId or dockerImage must be provided, and not both")
    if not isinstance(body.get("flavor"), str) or body["flavor"] not in FLAVORS:
        raise _invalid("flavor", f"one of {'|'.join(FLAVORS)}")
    if body.get("arch") not in (None, *_ARCHITECTURES):
        raise _invalid("arch", "|".join(_ARCHITECTURES))
    command = _words(body.get("command"), "command")
    if not all(command):
        raise _invalid("command", "words that are not empty")
    if body.get("volumes"):
        # A job that ran without them would look as if it worked.
        raise HubError(501, "The Hub emulator mounts no volumes; jobs for it must do without")
    secrets = read_strings(body.get("secrets"), "secrets")
    spec = {
        ("dockerImage" if image else "spaceId"): image or space,
        "command": command,
        "arguments": _words(body.get("arguments"), "arguments"),
        "environment": read_strings(body.get("environment"), "environment"),
        "secrets": sorted(secrets),
        "flavor": body["flavor"],
        "timeout": _count(body.get("timeoutSeconds"), "timeoutSeconds", None),
        "attempts": _count(body.get("attempts"), "attempts", 1),
        "labels": read_labels(body.get("labels")),
        "expose": read_ports(body.get("expose")),
    }
    if body.get("arch"):
        spec["arch"] = body["arch"]
    return spec, secrets


def answer_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec as jobs and scheduled jobs show it."""
    hidden = ("attempts", "timeout", "expose", "labels")
    answer = {name: value for name, value in spec.items() if name not in hidden}
    answer["retry"] = spec["attempts"] - 1
    for name in ("timeout", "expose", "labels"):
        if spec[name]:
            answer[name] = spec[name]
    return answer

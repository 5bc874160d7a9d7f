"""Resolves requirements the way a plain `pip install` on a Colab image would, from recorded metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from resolvelib import AbstractProvider, BaseReporter, Resolver
from resolvelib.structs import RequirementInformation

__all__ = [
    "DATA",
    "Image",
    "Index",
    "Outcome",
    "Recorded",
    "Unrecorded",
    "images",
    "resolve",
]

DATA = Path(__file__).parents[1] / "data" / "colab"

_HEADER = re.compile(r"runtime image (?P<name>\S+): .*\(Python (?P<python>\d+\.\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A Colab runtime image: its Python and what is installed there."""

    name: str
    python: str
    installed: Mapping[str, Version]

    def environment(self) -> dict[str, str]:
        """The markers' variables there (PEP 508)."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_release": "6.6.0",
            "platform_system": "Linux",
            "platform_version": "#1 SMP",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def images(folder: Path = DATA) -> list[Image]:
    """Every image recorded in ``folder``: one text file each, the Python in its first line."""
    result = []
    for file in sorted(folder.glob("*.txt")):
        first, *lines = file.read_text(encoding="utf-8").splitlines()
        header = _HEADER.search(first)
        assert header, f"{file}: the first line must name the image and its Python"
        pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
        installed: dict[str, Version] = {canonicalize_name(name): Version(version) for name, version in pins}
        result.append(Image(name=header["name"], python=header["python"], installed=installed))
    return result


class Unrecorded(Exception):
    """The resolution asks for something that metadata.json does not hold: run tests/data/colab/record.py."""


class Index(Protocol):
    """Where versions and their requirements come from."""

    def versions(self, name: str, python: str) -> Sequence[str]:
        """Releases of ``name`` with a file for that Python; yanked ones left out."""

    def requires(self, name: str, version: str, python: str) -> Sequence[str]:
        """The release's Requires-Dist lines."""


class Recorded:
    """An index read from metadata.json."""

    def __init__(self, file: Path = DATA / "metadata.json") -> None:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        self.recorded_on: str = document["recorded_on"]
        self._versions: dict[str, list[str]] = document["versions"]
        self._requires: dict[str, list[str]] = document["requires"]

    def versions(self, name: str, python: str) -> Sequence[str]:
        """As ``Index``."""
        return self._look(self._versions, f"{name} on {python}")

    def requires(self, name: str, version: str, python: str) -> Sequence[str]:
        """As ``Index``; recorded once for all Pythons, since the lines carry markers."""
        return self._look(self._requires, f"{name}=={version}")

    def _look(self, table: dict[str, list[str]], key: str) -> list[str]:
        try:
            return table[key]
        except KeyError:
            raise Unrecorded(f"{key} is not in metadata.json: run tests/data/colab/record.py") from None


@dataclass(frozen=True, slots=True)
class _Need:
    name: str
    extra: str
    specifier: SpecifierSet


@dataclass(frozen=True, slots=True)
class _Pick:
    name: str
    extra: str
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an install would do to an image."""

    image: str
    changed: Mapping[str, tuple[Version, Version]]
    """Preinstalled distributions that it would replace: (from, to)."""
    added: Mapping[str, Version]


class _Provider(AbstractProvider[_Need, _Pick, str]):
    """pip's rules: an installed version that satisfies is kept, else the newest release that does is taken.

    Source: pip's resolution/resolvelib/{factory,found_candidates,provider}.py, without --upgrade.
    """

    def __init__(self, image: Image, index: Index, asked: Sequence[str]) -> None:
        self._image = image
        self._index = index
        self._asked = {name: position for position, name in enumerate(asked)}
        self._environment = image.environment()

    def needs(self, lines: Iterable[str], extra: str = "") -> Iterator[_Need]:
        """Requirements among ``lines`` that hold on this image; for an extra, those that it alone asks for."""
        for line in lines:
            requirement = Requirement(line)
            marker = requirement.marker
            plain = marker is None or marker.evaluate({**self._environment, "extra": ""})
            if extra:
                is_needed = not plain and marker is not None and marker.evaluate({**self._environment, "extra": extra})
            else:
                is_needed = plain
            if is_needed:
                name = canonicalize_name(requirement.name)
                yield _Need(name, "", requirement.specifier)
                for asked in sorted(requirement.extras):
                    yield _Need(name, canonicalize_name(asked), requirement.specifier)

    def identify(self, requirement_or_candidate: _Need | _Pick) -> str:
        item = requirement_or_candidate
        return f"{item.name}[{item.extra}]" if item.extra else item.name

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, _Pick],
        candidates: Mapping[str, Iterator[_Pick]],
        information: Mapping[str, Iterator[RequirementInformation[_Need, _Pick]]],
        backtrack_causes: Sequence[RequirementInformation[_Need, _Pick]],
    ) -> Any:
        operators = [s.operator for entry in information[identifier] for s in entry.requirement.specifier]
        pinned = "==" in operators
        bounded = any(operator in ("<", "<=", "~=") for operator in operators)
        return (
            not pinned,
            not bounded,
            self._asked.get(identifier, len(self._asked)),
            not operators,
            identifier,
        )

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[_Need]],
        incompatibilities: Mapping[str, Iterator[_Pick]],
    ) -> Any:
        needs = list(requirements[identifier])
        name, extra = needs[0].name, needs[0].extra
        # The base distribution's requirements bind its extras too.
        specifier = SpecifierSet(",".join(str(need.specifier) for need in [*needs, *requirements.get(name, ())]))
        refused = {pick.version for pick in incompatibilities[identifier]}
        return lambda: (
            _Pick(name, extra, version) for version in self._offers(name, specifier) if version not in refused
        )

    def _offers(self, name: str, specifier: SpecifierSet) -> Iterator[Version]:
        installed = self._image.installed.get(name)
        if installed is not None and specifier.contains(installed, prereleases=True):
            yield installed
        listed = [Version(version) for version in self._index.versions(name, self._image.python)]
        for version in specifier.filter(sorted(listed, reverse=True)):
            if version != installed:
                yield version

    def is_satisfied_by(self, requirement: _Need, candidate: _Pick) -> bool:
        return requirement.specifier.contains(candidate.version, prereleases=True)

    def get_dependencies(self, candidate: _Pick) -> Iterable[_Need]:
        version = str(candidate.version)
        lines = self._index.requires(candidate.name, version, self._image.python)
        needs = list(self.needs(lines, candidate.extra))
        if candidate.extra:
            needs.append(_Need(candidate.name, "", SpecifierSet(f"=={version}")))
        return needs


def resolve(image: Image, requirements: Sequence[str], index: Index) -> Outcome:
    """What `pip install` of ``requirements`` would change and add on ``image``.

    Raises:
        Unrecorded: the index does not hold what this resolution needs.
        resolvelib.ResolutionImpossible: pip would refuse.
    Does not: look at what the image's other distributions require; nor does pip, it only warns.
    """
    names = [canonicalize_name(Requirement(line).name) for line in requirements]
    provider = _Provider(image, index, names)
    resolver = Resolver(provider, BaseReporter[_Need, _Pick, str]())
    result = resolver.resolve(list(provider.needs(requirements)), max_rounds=20_000)
    picks = {pick.name: pick.version for pick in result.mapping.values()}
    changed = {
        name: (image.installed[name], version)
        for name, version in sorted(picks.items())
        if name in image.installed and version != image.installed[name]
    }
    added = {name: version for name, version in sorted(picks.items()) if name not in image.installed}
    return Outcome(image=image.name, changed=changed, added=added)

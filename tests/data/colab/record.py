"""Writes metadata.json: what tests/test_colab_images.py needs to know of the package index.

    python tests/data/colab/record.py

Resolves as the test does, asking pip (and through it the configured index) for whatever is not recorded
yet. Start it with `--fresh` to forget what is recorded. Takes some minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from colab_cases import CASES
from colab_images import DATA, images, resolve
from resolvelib import ResolutionImpossible

PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)),
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
    "linux_x86_64",
]


def target(python: str) -> list[str]:
    """pip's options for an image's interpreter."""
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    return ["--python-version", python, "--implementation", "cp", *platforms]


def pip(*arguments: str) -> Any:
    """Run pip and read the JSON that it prints."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LookupError(done.stderr.strip())
    return json.loads(done.stdout)


class Recorder:
    """An index that asks pip and remembers."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.document: dict[str, Any] = {"versions": {}, "requires": {}}
        if file.exists() and "--fresh" not in sys.argv:
            self.document = json.loads(file.read_text(encoding="utf-8"))

    def versions(self, name: str, python: str) -> Sequence[str]:
        """Releases with a file for that Python."""
        table, key = self.document["versions"], f"{name} on {python}"
        if key not in table:
            print(key, flush=True)
            try:
                found = pip("index", "versions", "--json", "--pre", *target(python), name)["versions"]
            except LookupError as error:
                if "No matching distribution" not in str(error):
                    raise
                found = []
            table[key] = found
        return list(table[key])

    def requires(self, name: str, version: str, python: str) -> Sequence[str]:
        """The requirements of one release, from its own metadata."""
        table, key = self.document["requires"], f"{name}=={version}"
        if key not in table:
            print(key, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                options = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-"]
                report = pip("install", *options, *target(python), "--target", folder, key)
            table[key] = report["install"][0]["metadata"].get("requires_dist", [])
        return list(table[key])

    def save(self) -> None:
        """Write the file, one line an entry so that changes can be read."""
        self.document["recorded_on"] = datetime.now(UTC).date().isoformat()
        text = json.dumps({key: self.document[key] for key in ("recorded_on",)})[:-1]
        for table in ("versions", "requires"):
            rows = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(self.document[table].items()))
            text += f',\n"{table}": {{\n' + ",\n".join(rows) + "\n}"
        self.file.write_text(text + "}\n", encoding="utf-8")


def main() -> None:
    """Resolve every case on every image, then write what that needed."""
    recorder = Recorder(DATA / "metadata.json")
    try:
        for image in images():
            for name, requirements in CASES.items():
                try:
                    outcome = resolve(image, requirements, recorder)
                except ResolutionImpossible as error:
                    print(f"{image.name}: {name}: impossible: {error}")
                    continue
                print(f"{image.name}: {name}: {len(outcome.added)} new, changed: {dict(outcome.changed)}")
    finally:
        recorder.save()


if __name__ == "__main__":
    main()

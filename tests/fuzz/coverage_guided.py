"""The readers of manifests and packs under a coverage-guided fuzzer, for as long as one likes. No part of the tests.

    pip install atheris
    python tests/fuzz/coverage_guided.py manifest -max_total_time=600
    python tests/fuzz/coverage_guided.py pack -max_total_time=600

Any exception that is not ``CheckpointError`` ends it with the input that raised it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Fuzz the target that the command line names; the rest of it is libFuzzer's."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["qcity_nb"]):
        from qcity_nb.checkpoint.storage import manifest, pack
        from qcity_nb.errors import CheckpointError

    folder = Path(tempfile.mkdtemp(prefix="qcity-fuzz-"))
    path = folder / "t1-1.pack"
    corpus = folder / "corpus"
    corpus.mkdir()
    content = b"content"
    name = pack.digest(content)
    refs = pack.write_pack(corpus / "pack", {name: content}, term=1)
    loop = manifest.LoopRecord(key="cell/0", outputs=(name,))
    (corpus / "manifest").write_bytes(
        manifest.dumps(manifest.Manifest(run="r", term=1, seq=1, loops=(loop,), objects=refs))
    )

    def read_manifest(data: bytes) -> None:
        with contextlib.suppress(CheckpointError):
            manifest.loads(data)

    def read_pack(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            for name, ref in pack.read_index(path)[1].items():
                pack.read_object(path, ref, name)

    targets: dict[str, Callable[[bytes], None]] = {"manifest": read_manifest, "pack": read_pack}
    target = targets[sys.argv.pop(1)]
    atheris.Setup([*sys.argv, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Damaged and forged checkpoints, for tests: mutations that know the structure, sealed by the engine's own writers.

Whoever can write to the disk can make a digest fit; nothing here relies on the digests alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import random
import resource
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import tier_world as world
from hypothesis import strategies as st

from qcity_nb.checkpoint.storage import manifest as manifests
from qcity_nb.checkpoint.storage import pack
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.checkpoint.storage.manifest import Manifest

MEMORY_BYTES = 64 << 20
"""What reading a file of some kilobytes may ask for at most."""
CPU_S = 5.0
"""How long it may take; far more than it does, so that a slow machine is no finding."""

JSON = Any

_ODD: list[JSON] = [
    None,
    True,
    -1,
    0,
    1 << 31,
    1 << 62,
    (1 << 63) - 1,
    1 << 64,
    -(1 << 70),
    10**40,
    1.5,
    -0.0,
    1e308,
    "",
    "x",
    "\0",
    "a\0b",
    "\ud800",
    "../../../etc/passwd",
    "/dev/zero",
    "/etc/passwd",
    ".",
    "..",
    "a/b",
    "t1-1.pack",
    "t1-2.pack",
    "x" * 300,
    "b2-" + "0" * 64,
    "x3-" + "0" * 32,
    {"float": "nan"},
    {"float": "seven"},
    {"float": []},
    {"float": None},
    {"float": {"float": "1"}},
    {"": 0},
    [],
    {},
    [[]],
]
DEPTHS = (10, 100, 300, 480, 600, 900, 980, 5_000, 100_000)


def _odd(rng: random.Random, kind: type | None = None) -> JSON:
    """A value that a reader may not expect; of type ``kind``, if given, so that it passes more checks."""
    if rng.random() < 0.2 and kind is not str:
        return rng.choice((-1, 1)) * rng.getrandbits(rng.randrange(80))
    if rng.random() < 0.2 and kind is not int:
        return "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x11000)))) for _ in range(rng.randrange(20))
        )
    value = rng.choice([each for each in _ODD if kind is None or type(each) is kind])
    if kind is None and rng.random() < 0.2:
        return rng.choice(([value, 1], {"x": value}, {"offset": value}))
    return value


def _paths(value: JSON, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield at
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*at, key))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _paths(item, (*at, n))


def _replaced(value: JSON, at: tuple[str | int, ...], new: JSON) -> JSON:
    if not at:
        return new
    first, *rest = at
    if isinstance(value, dict):
        return {key: _replaced(item, tuple(rest), new) if key == first else item for key, item in value.items()}
    return [_replaced(item, tuple(rest), new) if n == first else item for n, item in enumerate(value)]


def _removed(value: JSON, at: tuple[str | int, ...]) -> JSON:
    first, *rest = at
    if rest:
        return _replaced(value, (first,), _removed(value[first], tuple(rest)))
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if key != first}
    return [item for n, item in enumerate(value) if n != first]


def mutated(value: JSON, rng: random.Random) -> bytes:
    """JSON like ``value``, with parts replaced, taken away, put in twice, or nested without end."""
    for _ in range(rng.randint(1, 3)):
        paths = [*list(_paths(value))[1:], ()]
        last = rng.choice(sorted({str(path[-1:]) for path in paths}))  # each field as often as any other
        at = rng.choice([path for path in paths if str(path[-1:]) == last])
        how = rng.choice(("like", "like", "like", "replace", "remove", "twice", "nest"))
        old = functools.reduce(lambda inner, key: inner[key], at, value)
        if how == "like" and type(old) in (int, str, bool):
            value = _replaced(value, at, _odd(rng, type(old)))
        elif how == "remove" and at:
            value = _removed(value, at)
        elif how == "nest":
            value = _replaced(value, at, "<nest>")
        elif how == "twice":
            value = _replaced(value, at, {"<twice>": _odd(rng)})
        else:
            value = _replaced(value, at, _odd(rng))
    text = json.dumps(value)
    depth, (opened, closed) = rng.choice(DEPTHS), rng.choice((("[", "]"), ('{"x":', "}")))
    text = text.replace('"<nest>"', opened * depth + "1" + closed * depth)
    text = text.replace('{"<twice>": ', '{"seq": 1, "seq": 2, "pack": "x", "pack": ')
    return text.encode()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes with bits flipped, parts cut out, doubled or put in, numbers replaced, the end missing."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = len(changed)
        # Half of the time near an end: there are the headers.
        at = rng.choice((rng.randrange(size + 1), rng.randrange(64), max(0, size - rng.randrange(64))))
        how = rng.choice(("flip", "flip", "cut", "insert", "double", "number", "end"))
        if at >= size or how == "insert":
            changed[at:at] = rng.randbytes(rng.randint(1, 16))
        elif how == "flip":
            changed[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del changed[at : at + rng.randint(1, 200)]
        elif how == "double":
            changed[at:at] = changed[at : at + rng.randint(1, 200)]
        elif how == "number":
            width = rng.choice((4, 8))
            number = rng.choice((0, 1, 1 << 30, (1 << 31) - 1, (1 << 32) - 1, 1 << 62, (1 << 64) - 1, 1 << 63))
            changed[at : at + width] = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        else:
            del changed[at:]
    return bytes(changed)


def seeds() -> st.SearchStrategy[random.Random]:
    """Hypothesis draws a seed only: drawing each choice costs more than reading a checkpoint does."""
    return st.integers(0, (1 << 64) - 1).map(random.Random)


def texts(value: JSON, *, is_damaged: bool = False) -> st.SearchStrategy[bytes]:
    """``mutated``, and half of them ``damaged`` too."""

    def make(rng: random.Random) -> bytes:
        text = mutated(value, rng)
        return damaged(text, rng) if is_damaged and rng.random() < 0.5 else text

    return seeds().map(make)


def manifest_value(manifest: Manifest) -> JSON:
    """A manifest as JSON, to be mutated."""
    return json.loads(manifests.dumps(manifest))


def forge_manifest(tier: LocalTier, seq: int, body: bytes) -> None:
    """Let the tier's own writer seal ``body`` as checkpoint ``seq``."""
    with mock.patch.object(manifests, "dumps", return_value=body):
        world.save(tier, seq)


def forge_pack(path: Path, objects: Mapping[str, bytes], index: bytes) -> None:
    """Let the pack's own writer seal ``index`` in place of the true one."""
    with mock.patch("json.dumps", return_value=index.decode("latin-1")):
        pack.write_pack(path, objects, term=world.TERM)


def bomb(path: Path) -> bytes:
    """A pickle that makes the file ``path`` when it is loaded."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (f"open({str(path)!r}, 'w').close()",))

    return pickle.dumps(Bomb(), protocol=4)


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """More memory than ``MEMORY_BYTES`` is MemoryError, more time than ``CPU_S`` TimeoutError: findings both."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer after {CPU_S:g} s of CPU")

    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, expired)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MEMORY_BYTES, limits[1]))
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGVTALRM, handler)


def seconds() -> float:
    """How long each fuzzer runs: ``FUZZ_SECONDS``, 1 by default."""
    return float(os.environ.get("FUZZ_SECONDS", "1"))


def until() -> float:
    """When it ends."""
    return time.monotonic() + seconds()

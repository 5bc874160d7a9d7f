"""What the checkpoint benchmark saves: tensors, a model with its optimizer, or arrays among many small objects.

Each state is one object in the process; `arrays()` shows its bulk as named numpy views, which is what the peers are
given.
"""

from __future__ import annotations

import json
import math
import pickle
import time
import zlib
from typing import Any

import numpy as np
import torch

__all__ = ["Mixed", "State", "Tensors", "Trained", "make"]

COUNT = 200
RECORDS = 200_000


class State:
    """One state of a size.

    `live` is what our engine is given: the user's own objects. `records` are the Python objects in it, if there are
    any.
    """

    live: dict[str, Any]
    records: list[Any] | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The bulk, by name: views, no copies."""
        raise NotImplementedError

    def change(self) -> int:
        """What the program does between two saves; returns the bytes that it changed."""
        raise NotImplementedError

    def after_save(self) -> tuple[float, float]:
        """What the program does right after a save has returned.

        Returns: the seconds in which it had to wait for the save, and the CPU seconds of its own work.
        """
        return 0.0, 0.0

    def wipe(self) -> None:
        """Overwrite everything in place, so that a restore that does nothing is seen."""
        with torch.no_grad():
            for array in self.arrays().values():
                array.fill(0)

    @property
    def size_bytes(self) -> int:
        """Of the bulk."""
        return sum(array.nbytes for array in self.arrays().values())

    def digest(self) -> int:
        """Of all that is in it: the same before a save and after the restore."""
        value = 0
        for name, array in sorted(self.arrays().items()):
            value = zlib.crc32(memoryview(array).cast("B"), zlib.crc32(name.encode(), value))
        return value if self.records is None else zlib.crc32(json.dumps(self.records).encode(), value)


class Tensors(State):
    """Float32 tensors in a dict, of which a share changes between two saves, others each time."""

    def __init__(self, size_bytes: int, share: float) -> None:
        first = torch.rand(size_bytes // COUNT // 4)
        # One random tensor, scaled: no two have the same bytes, and none takes seconds of a random generator.
        self.live = {f"t{k:03d}": first * (1 + k / 1000) for k in range(COUNT)}
        self.few = round(COUNT * share)
        self.turn = 0

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in self.live.items()}

    def change(self) -> int:
        changed = 0
        for k in range(self.few):
            tensor = self.live[f"t{(self.turn * self.few + k) % COUNT:03d}"]
            tensor.add_(0.001)
            changed += tensor.nbytes
        self.turn += 1
        return changed


class Marked(torch.optim.AdamW):
    """AdamW that knows when its step began, after all hooks: what passes before that is a hook's wait."""

    began = 0.0

    def step(self, closure: Any = None) -> Any:
        self.began = time.perf_counter()
        return super().step(closure)


class Trained(State):
    """A multilayer perceptron and its AdamW, of which a share of the layers is trained."""

    def __init__(self, size_bytes: int, share: float, *, tensors: int = COUNT, batch: int = 32) -> None:
        # A trained layer is three tensors: the weights and two moments.
        trained = max(1, math.floor(tensors * share / 3))
        frozen = 0 if share == 1 else tensors - 3 * trained
        width = math.isqrt(size_bytes // (frozen + 3 * trained) // 4)
        layers = [torch.nn.Linear(width, width, bias=False) for _ in range(frozen + trained)]
        with torch.no_grad():
            for layer in layers:
                layer.weight.uniform_(-1.7 / width**0.5, 1.7 / width**0.5)
        for layer in layers[:frozen]:
            layer.requires_grad_(False)
        self.model = torch.nn.Sequential(*(torch.nn.Sequential(layer, torch.nn.Tanh()) for layer in layers))
        self.optimizer = Marked(self.model.parameters(), lr=1e-6)
        self.live = {"model": self.model, "optimizer": self.optimizer}
        self.batch = torch.randn(batch, width)
        self.alone()
        moved = [p for p in self.model.parameters() if p.requires_grad]
        self.changed = sum(p.nbytes + sum(v.nbytes for v in self.optimizer.state[p].values()) for p in moved)

    def iterate(self) -> float:
        """One iteration of training; returns the seconds that its step waited before it began."""
        self.optimizer.zero_grad(set_to_none=False)
        self.model(self.batch).square().mean().backward()
        ready = time.perf_counter()
        self.optimizer.step()
        return self.optimizer.began - ready

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"model.{name}": p.detach().numpy() for name, p in self.model.named_parameters()}
        for k, moments in enumerate(self.optimizer.state.values()):
            arrays |= {f"optimizer.{k}.{name}": value.numpy() for name, value in moments.items()}
        return arrays

    def alone(self) -> float:
        """An iteration on this thread alone: its CPU is then all of the iteration's, and can be told from a save's."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self.iterate()
        finally:
            torch.set_num_threads(threads)

    def change(self) -> int:
        self.alone()
        return self.changed

    def after_save(self) -> tuple[float, float]:
        began = time.thread_time()
        return self.alone(), time.thread_time() - began


class Mixed(State):
    """Numpy arrays among many small dicts, a few of which change: a tenth of the arrays, 20 dicts."""

    ARRAYS, CHANGED = 100, 20

    def __init__(self, size_bytes: int, records: int) -> None:
        first = np.random.default_rng(7).random(size_bytes // self.ARRAYS // 4, dtype=np.float32)
        bulk = {f"a{k:03d}": first * np.float32(1 + k / 1000) for k in range(self.ARRAYS)}
        rows = [{"id": k, "name": f"item {k}", "score": k / 7, "seen": k % 3 == 0} for k in range(records)]
        self.live = {"arrays": bulk, "records": rows}
        self.turn = 0

    @property
    def records(self) -> list[Any]:  # type: ignore[override]
        return self.live["records"]

    @records.setter
    def records(self, rows: list[Any]) -> None:
        self.live["records"] = rows

    def arrays(self) -> dict[str, np.ndarray]:
        return dict(self.live["arrays"])

    def change(self) -> int:
        arrays = list(self.live["arrays"].values())
        few = [arrays[(self.turn * 10 + k) % self.ARRAYS] for k in range(10)]
        for array in few:
            array += np.float32(0.001)
        rows = [self.records[(self.turn + k * 997) % len(self.records)] for k in range(self.CHANGED)]
        for row in rows:
            row["score"] += 1
        self.turn += 1
        return sum(array.nbytes for array in few) + sum(len(pickle.dumps(row, 5)) for row in rows)

    def wipe(self) -> None:
        super().wipe()
        self.records = []


def make(kind: str, size_bytes: int, share: float, *, is_lazy: bool, records: int = RECORDS) -> State:
    """The state of a workload; the lazy mode needs an optimizer in it, whose step waits for the copy."""
    if kind == "mixed":
        return Mixed(size_bytes, records)
    if kind == "train":
        return Trained(size_bytes, 1.0, tensors=30, batch=128)
    return Trained(size_bytes, share) if is_lazy else Tensors(size_bytes, share)

"""The checkpoint engines, all with the same few calls: ours in its modes, peers as their own guides use them.

A peer is given named numpy views (torch tensors over the same memory where it wants these): nothing is copied for it.
One that keeps arrays only gets the Python objects pickled, as one more array. Peers do not fsync: `Peer.wait` does it
for them, since a checkpoint that a power cut takes away is none. On restore what they read is copied into the live
arrays, as `load_state_dict` does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_states import State

__all__ = ["ENGINES", "Engine", "missing"]

RECORDS = "records.pickle"


class Engine:
    """One engine on a folder of its own; it is called in the order of its methods."""

    new_bytes: int | None = None
    """What the engine itself says it wrote for the newest save, if it says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Returns when the program may continue."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until the newest save is on the disk, whatever happens to the machine."""
        raise NotImplementedError

    def tidy(self) -> None:
        """Remove what is older than the newest save."""

    def restore(self, state: State) -> None:
        """The newest save into the live objects."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up threads and buffers."""


class Ours(Engine):
    """`qcity_nb.checkpoint.Checkpointer`."""

    mode = "blocking"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from qcity_nb import checkpoint

        self.saver = checkpoint.Checkpointer(folder)

    def save(self, state: State) -> None:
        self.saving = self.saver.save(state.live, mode=self.mode)

    def wait(self) -> None:
        self.saving.wait()
        self.new_bytes = self.saving.new_bytes

    def restore(self, state: State) -> None:
        self.saver.restore(state.live)

    def close(self) -> None:
        self.saver.close()


class OursLazy(Ours):
    """The copy runs beside the next forward and backward pass; the optimizer's step waits for it."""

    mode = "lazy"


class Peer(Engine):
    """What peers have in common: a new place for each save, fsync, a copy into the live arrays."""

    arrays_only = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.count = max((int(path.name) for path in folder.iterdir()), default=0)
        self.made: dict[str, tuple[np.ndarray, Any]] = {}

    @property
    def place(self) -> Path:
        """Of the newest save."""
        return self.folder / f"{self.count:04d}"

    def save(self, state: State) -> None:
        self.count += 1
        content: dict[str, Any] = dict(state.arrays())
        if state.records is not None:
            packed = self.arrays_only
            rows = pickle.dumps(state.records, 5) if packed else state.records
            content[RECORDS] = np.frombuffer(rows, np.uint8) if packed else rows
        self.write(content)

    def tensors(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The same memory as torch tensors, the same objects at each save: DCP keeps its staging memory by these."""
        import torch

        def tensor(name: str, array: np.ndarray) -> Any:
            kept, made = self.made.get(name, (None, None))
            if kept is None or kept.__array_interface__ != array.__array_interface__:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # pickled records are read-only memory, which nobody writes
                    made = torch.from_numpy(array)
                self.made[name] = (array, made)
            return made

        return {name: tensor(name, v) if isinstance(v, np.ndarray) else v for name, v in content.items()}

    def write(self, content: dict[str, Any]) -> None:
        """Begin to store this at `place`."""
        raise NotImplementedError

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        """What is stored at `place`; the template has the live arrays."""
        raise NotImplementedError

    def finish(self) -> None:
        """Until a save in the background has ended."""

    def wait(self) -> None:
        self.finish()
        places = [self.place, *self.place.rglob("*")] if self.place.is_dir() else [self.place]
        for path in [*places, self.folder]:
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def tidy(self) -> None:
        for path in self.folder.iterdir():
            if path != self.place:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore(self, state: State) -> None:
        arrays = self.read(state.arrays())
        for name, array in state.arrays().items():
            part = arrays[name]
            if part is not array:
                np.copyto(array, part)
        if state.records is not None:
            rows = arrays[RECORDS]
            state.records = pickle.loads(np.asarray(rows).data) if self.arrays_only else rows


class TorchSave(Peer):
    """`torch.save`."""

    def write(self, content: dict[str, Any]) -> None:
        import torch

        torch.save(self.tensors(content), self.place)

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        import torch

        return torch.load(self.place, weights_only=False)


class Safetensors(Peer):
    """`safetensors.torch.save_file`."""

    arrays_only = True

    def write(self, content: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(self.tensors(content), self.place)

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.place)


class DcpAsync(Peer):
    """`torch.distributed.checkpoint.async_save` with one stager, so that its staging memory is warm."""

    arrays_only = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self.dcp = dcp
        self.stager = DefaultStager(StagingOptions(False, False, False, False))

    def write(self, content: dict[str, Any]) -> None:
        self.future = self.dcp.async_save(self.tensors(content), checkpoint_id=self.place, async_stager=self.stager)

    def finish(self) -> None:
        self.future.result()

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        known = self.dcp.FileSystemReader(self.place).read_metadata().state_dict_metadata
        content = self.tensors(template)
        if RECORDS in known:
            content |= self.tensors({RECORDS: np.empty(tuple(known[RECORDS].size), np.uint8)})
        self.dcp.load(content, checkpoint_id=self.place)  # straight into the live memory
        return {name: template.get(name, value) for name, value in content.items()}

    def close(self) -> None:
        self.stager.close()


class OrbaxAsync(Peer):
    """`orbax.checkpoint.AsyncCheckpointer` as it comes: OCDBT, zstd."""

    arrays_only = True
    compressed = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self.ocp = ocp
        self.saver = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=self.compressed))

    def write(self, content: dict[str, Any]) -> None:
        self.saver.save(self.place, args=self.ocp.args.PyTreeSave(content))

    def finish(self) -> None:
        self.saver.wait_until_finished()

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        known = self.saver.metadata(self.place).item_metadata
        plain = {name: self.ocp.RestoreArgs(restore_type=np.ndarray) for name in known}
        return self.saver.restore(self.place, args=self.ocp.args.PyTreeRestore(restore_args=plain))

    def close(self) -> None:
        self.saver.close()


class OrbaxPlain(OrbaxAsync):
    """The same with `use_compression=False`."""

    compressed = False


class Joblib(Peer):
    """`joblib.dump`, uncompressed."""

    def write(self, content: dict[str, Any]) -> None:
        import joblib

        joblib.dump(content, self.place)

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        import joblib

        return joblib.load(self.place)


class Pickle5(Peer):
    """Pickle protocol 5, the arrays as out-of-band buffers after the stream."""

    def write(self, content: dict[str, Any]) -> None:
        buffers: list[pickle.PickleBuffer] = []
        stream = pickle.dumps(content, 5, buffer_callback=buffers.append)
        parts = [stream, *(buffer.raw() for buffer in buffers)]
        with self.place.open("wb", buffering=0) as file:
            file.write(pickle.dumps([len(part) for part in parts]).ljust(1 << 16, b"\0"))
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.write(rest) :]

    def read(self, template: dict[str, Any]) -> Mapping[str, Any]:
        with self.place.open("rb", buffering=0) as file:
            sizes = pickle.loads(file.read(1 << 16))
            parts = [bytearray(size) for size in sizes]
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[file.readinto(rest) :]
        return pickle.loads(parts[0], buffers=parts[1:])


ENGINES: dict[str, tuple[str, type[Engine]]] = {
    "ours-blocking": ("qcity_nb, blocking", Ours),
    "ours-again": ("the same again (noise floor)", Ours),
    "ours-lazy": ("qcity_nb, lazy", OursLazy),
    "torch.save": ("`torch.save`", TorchSave),
    "safetensors": ("safetensors", Safetensors),
    "dcp-async": ("torch DCP `async_save`", DcpAsync),
    "orbax-async": ("orbax async", OrbaxAsync),
    "orbax-plain": ("orbax async, no compression", OrbaxPlain),
    "joblib": ("joblib", Joblib),
    "pickle5": ("pickle 5, buffers out of band", Pickle5),
}
NEEDS = {"torch.save": "torch", "safetensors": "safetensors", "dcp-async": "torch", "joblib": "joblib"}
NEEDS |= dict.fromkeys(("orbax-async", "orbax-plain"), "orbax.checkpoint")


def missing(name: str) -> str:
    """Why an engine cannot run here; empty if it can."""
    if name.startswith("ours"):
        from qcity_nb import checkpoint

        return "" if hasattr(checkpoint, "Checkpointer") else "not in this version"
    with contextlib.suppress(ModuleNotFoundError):
        if name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None:
            return ""
    return "not installed"

"""Checkpoints as other libraries' files: safetensors, and torch's distributed checkpoints (DCP).

    left_out = to_safetensors(state, path)        tensors = from_safetensors(path)
    left_out = to_dcp(state, directory)           state = from_dcp(directory)

``state`` is a live state, or the result of ``capture.load``. Tensors are named by their path (see ``flat``). Other
values are stored too if JSON can hold them. The rest is left out; the functions return what was left out and why.

A safetensors file holds no code, so a file from anywhere is safe to open. A DCP directory holds pickles: open only
what you would run.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qcity_nb.checkpoint.formats.flat import Flat, build, fill, flatten, is_numpy, is_torch, replace_tensors
from qcity_nb.checkpoint.formats.portable import alike, as_torch, dense, little_endian, refuse, refuse_dcp
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, UsageError

__all__ = ["from_dcp", "from_safetensors", "to_dcp", "to_safetensors", "values_of"]

_KEY = "qcity"
"""The key of our own part in a safetensors file's metadata: one JSON object."""
_TREE = "_qcity_tree"
"""The same in a DCP directory."""
_FOREIGN = frozenset(("BF16", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0"))
"""Types in a safetensors file that numpy does not have."""


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise UsageError('safetensors is not installed: pip install "qcity-nb[export]"') from None
    return safetensors


def _own_part(flat: Flat) -> str:
    arrays = [name for name, tensor in flat.tensors.items() if is_numpy(tensor)]
    part = {
        "version": 1,
        "values": flat.values,
        "tied": flat.tied,
        "arrays": arrays,
        "left_out": flat.left_out,
        "tree": flat.tree,
    }
    return json.dumps(part, separators=(",", ":"))


def to_safetensors(state: object, path: str | os.PathLike[str]) -> dict[str, str]:
    """Write ``state`` as one safetensors file, whole or not at all; an older file of that name is replaced.

    A tensor with several names is stored once; ``tied`` in the metadata has the other names. Non-contiguous ones
    are made contiguous, those on other devices are copied to the CPU. Values, ties and the tree are one JSON
    object under ``qcity`` in the metadata.

    Returns: what was left out, and why.
    Raises:
        UsageError: safetensors is not installed.
        CheckpointError: the file cannot be written.
    """
    library = _library()
    flat = flatten(state, refuse=refuse)
    metadata = {_KEY: _own_part(flat)}
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        if any(is_torch(tensor) for tensor in flat.tensors.values()):
            from safetensors import torch as with_torch

            with_torch.save_file(dense(flat.tensors), temporary, metadata={"format": "pt", **metadata})
        else:
            import numpy
            from safetensors import numpy as with_numpy

            arrays = {name: little_endian(numpy, array) for name, array in flat.tensors.items()}
            with_numpy.save_file(arrays, temporary, metadata={"format": "np", **metadata})
        temporary.replace(target)
    except (OSError, library.SafetensorError) as error:
        raise CheckpointError(f"cannot write {target}: {getattr(error, 'strerror', None) or error}") from error
    except KeyError as error:  # safetensors 0.4 has a table of types, which lacks the newer ones
        raise CheckpointError(f"cannot write {target}: safetensors {library.__version__} has no {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return flat.left_out


def _open(path: Path, framework: str) -> contextlib.AbstractContextManager[Any]:
    library = _library()
    opened: contextlib.AbstractContextManager[Any] = library.safe_open(str(path), framework=framework)
    return opened


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    library = _library()
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (library.SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read as a safetensors file: {error}") from error


def _own(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Our part of the metadata; ``None`` if another library wrote the file."""
    if not metadata or _KEY not in metadata:
        return None
    part = json.loads(metadata[_KEY])
    return part if isinstance(part, dict) and "tree" in part else None


def values_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The values that ``to_safetensors`` wrote with the tensors, by name; empty for a file of another library.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with _reading(Path(path)), _open(Path(path), "np") as file:
        part = _own(file.metadata())
    return dict(part["values"]) if part else {}


def from_safetensors(path: str | os.PathLike[str], *, into: object = None) -> dict[str, Any]:
    """The tensors of any safetensors file by name, tied names too.

    What was saved as a numpy array is loaded as one. If the file does not say, tensors are torch's if torch is
    imported or the file needs it, else numpy arrays.

    Args:
        into: a live state to fill as well, in place; modules and optimizers by ``load_state_dict``. What the file
            left out stays unchanged. A file of another library must have exactly the names of this state.
    Raises:
        CheckpointError: the file cannot be read, or does not fit ``into``, which may then be partly filled.
    """
    target = Path(path)
    with _reading(target):
        with _open(target, "np") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            types = {file.get_slice(name).get_dtype() for name in names}
        part = _own(metadata)
        needs_torch = bool(types & _FOREIGN) or metadata.get("format") == "pt"
        if part is None and metadata.get("format") is None:
            needs_torch = needs_torch or "torch" in sys.modules
        with _open(target, "pt" if needs_torch else "np") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    for name in part["arrays"] if part and needs_torch else ():
        tensors[name] = tensors[name].numpy()
    tied: dict[str, str] = part["tied"] if part else {}
    if into is not None:
        fill(into, _ours(part, tensors) if part else _foreign(into, tensors, target))
    return {**tensors, **{name: tensors[first] for name, first in tied.items()}}


def _ours(part: Mapping[str, Any], tensors: Mapping[str, Any]) -> Flat:
    return Flat(tree=part["tree"], tensors=dict(tensors), tied=part["tied"], values=part["values"])


def _foreign(state: object, tensors: Mapping[str, Any], path: Path) -> Flat:
    """The structure of the live state, with the file's tensors."""
    flat = flatten(state, refuse=refuse)
    missing = sorted(flat.tensors.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - flat.tensors.keys() - flat.tied.keys())
    if missing or unknown:
        reasons = [f"it lacks {', '.join(missing[:5])}"] if missing else []
        reasons += [f"the state has no {', '.join(unknown[:5])}"] if unknown else []
        raise CheckpointError(f"{path} does not fit: {'; '.join(reasons)}")
    for name, live in flat.tensors.items():
        if tuple(live.shape) != tuple(tensors[name].shape):
            raise CheckpointError(
                f"{path} does not fit: {name} is {tuple(tensors[name].shape)} there and {tuple(live.shape)} here"
            )
    return replace_tensors(flat, {name: alike(tensors[name], live) for name, live in flat.tensors.items()})


def _torch() -> Any:
    try:
        import torch
        import torch.distributed.checkpoint
    except ImportError:
        raise UsageError("torch is not installed, and a distributed checkpoint is torch's own format") from None
    return torch


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Silence torch's warning: a single process without a process group is intended here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_dcp(state: object, directory: str | os.PathLike[str]) -> dict[str, str]:
    """Write ``state`` as a directory that ``torch.distributed.checkpoint.load`` reads; no process group is needed.

    Arrays become tensors. A tensor with several names is stored under each, because a reader asks for all of them.
    The tree is the entry ``_qcity_tree``, which readers may ignore.

    Returns: what was left out, and why.
    Raises:
        UsageError: torch is not installed.
        CheckpointError: the directory cannot be written.
    """
    torch = _torch()
    dcp = torch.distributed.checkpoint
    flat = flatten(state, refuse=refuse_dcp)
    part = _own_part(flat)
    tensors = {name: as_torch(torch, tensor) for name, tensor in flat.tensors.items()}
    whole = replace_tensors(flat, tensors)
    nested = _lists(build(whole, keys=str)) if flat.are_paths else None
    if not isinstance(nested, dict):
        nested = {**tensors, **{name: tensors[first] for name, first in flat.tied.items()}, **flat.values}
    try:
        with _alone():
            writer = dcp.FileSystemWriter(str(directory))
            dcp.save({**nested, _TREE: part}, storage_writer=writer, no_dist=True)
    except (OSError, dcp.CheckpointException) as error:
        raise CheckpointError(f"cannot write {directory}: {error}") from error
    return flat.left_out


def _lists(value: Any) -> Any:
    """Tuples that hold more than plain values become lists: torch pickles a tuple as a whole."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_lists(item) for item in value]
        is_deep = any(isinstance(item, dict | list) or is_torch(item) for item in items)
        return items if is_deep or isinstance(value, list) else value
    return value


def from_dcp(directory: str | os.PathLike[str]) -> Any:
    """The state in any DCP directory, as nested dicts, lists, tuples, tensors and values.

    If qcity wrote it, dicts have their own keys (numbers too), arrays are arrays, and tied tensors are one tensor.
    Objects and whatever has a ``state_dict`` are dicts: pass them to ``load_state_dict``. Tensors that were saved in
    shards are assembled on the CPU.

    Raises:
        UsageError: torch is not installed.
        CheckpointError: it is not such a directory, or is damaged.
    """
    torch = _torch()
    dcp = torch.distributed.checkpoint
    try:
        with _alone():
            reader = dcp.FileSystemReader(str(directory))
            metadata = reader.read_metadata()
            entries: dict[str, Any] = {}
            for name, entry in metadata.state_dict_metadata.items():
                is_tensor = isinstance(entry, dcp.TensorStorageMetadata)
                entries[name] = torch.empty(entry.size, dtype=entry.properties.dtype) if is_tensor else None
            dcp.load(entries, storage_reader=reader, no_dist=True)
    except Exception as error:  # torch raises many types for damaged files
        raise CheckpointError(f"{directory} cannot be read as a distributed checkpoint: {error}") from error
    if _TREE in entries:
        return _tree_of(json.loads(entries[_TREE]), entries)
    paths = metadata.planner_data or {}
    nested: dict[Any, Any] = {}
    for name, value in entries.items():
        _set(nested, paths.get(name, (name,)), value)
    return nested


def _tree_of(part: Mapping[str, Any], entries: Mapping[str, Any]) -> Any:
    arrays = set(part["arrays"])
    tied: Mapping[str, str] = part["tied"]
    tensors = {
        name: tensor.numpy() if name in arrays else tensor
        for name, tensor in entries.items()
        if is_torch(tensor) and name not in tied
    }
    return build(_ours(part, tensors))


def _set(nested: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    """Put ``value`` at ``path``; a number is an index of a list, as torch writes it."""
    here: Any = nested
    for part, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(here, list):
            here.extend([None] * (part + 1 - len(here)))
        known = here[part] if isinstance(here, list) else here.get(part)
        if following is None:
            here[part] = value
            return
        if known is None:
            here[part] = known = [] if isinstance(following, int) else {}
        here = known

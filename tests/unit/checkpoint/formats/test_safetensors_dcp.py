"""Files of other libraries, against the libraries themselves: bit for bit in both directions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from optional import HAS_TORCH, part, torch

from qcity_nb.checkpoint.formats.flat import build, flatten
from qcity_nb.checkpoint.formats.safetensors_dcp import from_dcp, from_safetensors, to_dcp, to_safetensors, values_of
from qcity_nb.checkpoint.state.capture import capture, load
from qcity_nb.errors import CheckpointCorrupt, CheckpointError, UsageError

dcp: Any = part("torch.distributed.checkpoint")
if HAS_TORCH:
    import safetensors.torch

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]


def bits(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(value, torch.Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return str(value.dtype), tuple(value.shape), data
    return str(value.dtype), value.shape, value.tobytes()


def same(left: Any, right: Any, path: str = "") -> None:
    assert type(left) is type(right), path
    if isinstance(left, torch.Tensor | np.ndarray):
        assert bits(left) == bits(right), path
    elif isinstance(left, dict):
        assert list(left) == list(right), path
        for key in left:
            same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            same(a, b, f"{path}.{index}")
    else:
        assert left == right or (left != left and right != right), path


def noise(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bits, so NaNs and their payloads too."""
    if dtype == torch.bool:
        return torch.rand(shape) < 0.5
    size = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (int(np.prod(shape)) * size,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))


def trained() -> dict[str, Any]:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(5, 4)).sum().backward()
        optimizer.step()
    return {"model": net, "optimizer": optimizer, "best": float("inf"), "history": [0.5, 0.25], "term": 2}


def untrained() -> dict[str, Any]:
    net = model()
    return {"model": net, "optimizer": torch.optim.Adam(net.parameters()), "best": 0.0, "history": [], "term": 0}


def state_dicts(state: dict[str, Any]) -> dict[str, Any]:
    return {name: each.state_dict() if hasattr(each, "state_dict") else each for name, each in state.items()}


# --- safetensors


@pytest.mark.parametrize("how", [lambda state: state, lambda state: load(capture(state))], ids=["live", "loaded"])
def test_the_library_reads_every_type(how: Callable[[Any], Any], tmp_path: Path) -> None:
    state = {str(dtype)[6:]: noise(dtype, 3, 5) for dtype in DTYPES}
    state |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "columns": noise(torch.float32, 4, 6).T}
    path = tmp_path / "a.safetensors"
    assert to_safetensors(how(state), path) == {}
    same(_sorted(safetensors.torch.load_file(path)), _sorted(state))
    same(_sorted(from_safetensors(path)), _sorted(state))


def test_a_model_and_its_optimizer_come_back_into_new_ones(tmp_path: Path) -> None:
    state, path = trained(), tmp_path / "a.safetensors"
    assert to_safetensors(load(capture(state)), path) == {}
    read = safetensors.torch.load_file(path)
    assert bits(read["model.0.weight"]) == bits(state["model"][0].weight)
    assert bits(read["optimizer.state.0.exp_avg"]) == bits(state["optimizer"].state_dict()["state"][0]["exp_avg"])
    live = untrained()
    net = live["model"]
    from_safetensors(path, into=live)
    assert live["model"] is net
    same(state_dicts(live), state_dicts(state))


def test_values_are_one_json_object(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    to_safetensors(trained(), path)
    with safetensors.safe_open(str(path), framework="np") as file:
        part = json.loads(file.metadata()["qcity"])
    assert part["values"]["history"] == [0.5, 0.25]
    assert values_of(path)["optimizer.param_groups.0.betas"] == [0.9, 0.999]
    assert values_of(path)["best"] == float("inf")


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    net: Any = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    net["head"].weight = net["embed"].weight
    path = tmp_path / "a.safetensors"
    to_safetensors({"model": net, "part": net["embed"].weight.detach()[1:]}, path)
    assert sorted(safetensors.torch.load_file(path)) == ["model.embed.weight", "part"]
    read = from_safetensors(path)
    assert read["model.head.weight"] is read["model.embed.weight"]
    assert bits(read["part"]) == bits(net["embed"].weight[1:])
    other: Any = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    from_safetensors(path, into={"model": other, "part": None})
    assert bits(other["head"].weight) == bits(net["head"].weight)


def test_two_shapes_of_one_memory_are_two_tensors(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    array = np.arange(6)
    state = {"w": weight, "row": weight.view(-1), "a": array, "b": array.reshape(2, 3)}
    to_safetensors(state, tmp_path / "a.safetensors")
    same(_sorted(from_safetensors(tmp_path / "a.safetensors")), _sorted(state))


def test_arrays_beside_tensors_come_back_as_arrays(tmp_path: Path) -> None:
    frozen = np.arange(4.0)
    frozen.flags.writeable = False
    state = {"t": torch.ones(2), "a": np.arange(6).reshape(2, 3).T, "big": np.arange(3, dtype=">i4"), "frozen": frozen}
    path = tmp_path / "a.safetensors"
    to_safetensors(state, path)
    read = from_safetensors(path)
    assert isinstance(read["t"], torch.Tensor)
    same(read["a"], np.ascontiguousarray(state["a"]))
    assert read["big"].tolist() == [0, 1, 2]
    same(read["frozen"], frozen)


def test_what_it_cannot_hold_is_left_out_by_name(tmp_path: Path) -> None:
    state = {
        "a": np.ones(1),
        "text": np.array(["x"]),
        "rows": np.zeros(2, dtype=[("x", "f4")]),
        "objects": np.array([None], dtype=object),
        "wide": torch.zeros(1, dtype=torch.complex128),
        "sparse": torch.eye(2).to_sparse(),
        "meta": torch.empty(2, device="meta"),
        "rng": torch.Generator(),
    }
    left_out = to_safetensors(state, tmp_path / "a.safetensors")
    assert set(left_out) == set(state) - {"a"}
    assert left_out["wide"] == "of dtype complex128"
    assert left_out["meta"] == "on the meta device, without data"


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {str(dtype)[6:]: noise(dtype, 4) for dtype in DTYPES}
    safetensors.torch.save_file(tensors, path)
    read = from_safetensors(path)
    assert {name: bits(each) for name, each in read.items()} == {name: bits(each) for name, each in tensors.items()}
    assert values_of(path) == {}
    safetensors.numpy.save_file({"x": np.arange(3)}, path, metadata={"format": "np"})
    same(from_safetensors(path), {"x": np.arange(3)})


def test_a_file_of_the_library_fills_a_live_model(tmp_path: Path) -> None:
    path, net, other = tmp_path / "a.safetensors", model(), model()
    safetensors.torch.save_file(net.state_dict(), path)
    from_safetensors(path, into=other)
    same(dict(other.state_dict()), dict(net.state_dict()))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.ones(2)}, "it lacks b"),
        ({"a": torch.ones(2), "b": torch.ones(1), "c": torch.ones(1)}, "the state has no c"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"b is \(3,\) there and \(1,\) here"),
    ],
)
def test_a_file_of_the_library_that_does_not_fit_is_refused(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    live = {"a": torch.zeros(2), "b": torch.zeros(1)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        from_safetensors(tmp_path / "a.safetensors", into=live)
    assert live["a"].tolist() == [0, 0]


def test_numpy_states_do_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from qcity_nb.checkpoint.formats.safetensors_dcp import from_safetensors, to_safetensors\n"
        f"path = {str(tmp_path / 'a.safetensors')!r}\n"
        "to_safetensors({'a': np.arange(3), 'b': [1]}, path)\n"
        "live = {'a': np.zeros(3, int), 'b': None}\n"
        "from_safetensors(path, into=live)\n"
        "assert live['a'].tolist() == [0, 1, 2] and live['b'] == [1]\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    to_safetensors({"a": np.ones(1)}, path)
    before = path.read_bytes()

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        to_safetensors({"a": np.zeros(1)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == before


def test_a_library_too_old_for_a_type_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def old(tensors: Any, file: Path, metadata: Any) -> None:
        raise KeyError(torch.uint16)

    monkeypatch.setattr(safetensors.torch, "save_file", old)
    with pytest.raises(CheckpointError, match=r"safetensors [0-9.]+ has no torch\.uint16"):
        to_safetensors({"a": torch.ones(1)}, tmp_path / "a.safetensors")


def test_no_such_file_and_no_safetensors_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"hello, this is no such file")
    with pytest.raises(CheckpointError, match="gone"):
        from_safetensors(tmp_path / "gone")
    with pytest.raises(CheckpointCorrupt, match=r"b\.safetensors cannot be read as a safetensors file"):
        from_safetensors(tmp_path / "b.safetensors")


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"qcity-nb\[export\]"):
        to_safetensors({}, tmp_path / "a")
    with pytest.raises(UsageError, match=r"qcity-nb\[export\]"):
        from_safetensors(tmp_path / "a")


# --- torch's distributed checkpoints


@pytest.fixture
def quiet() -> Any:
    """Torch's own calls warn that there is no process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_plain_dcp_load_reads_ours(tmp_path: Path, quiet: None) -> None:
    state = trained()
    assert to_dcp(load(capture(state)), tmp_path / "dcp") == {}
    other = trained()
    expected = state_dicts(other)
    dcp.load(expected, checkpoint_id=str(tmp_path / "dcp"))
    other["optimizer"].load_state_dict(expected["optimizer"])
    expected |= {name: other[name].state_dict() for name in ("model", "optimizer")}
    same(expected, state_dicts(state))


def test_a_directory_of_dcp_is_read(tmp_path: Path, quiet: None) -> None:
    state = state_dicts(trained())
    state["types"] = {str(dtype)[6:]: noise(dtype, 3) for dtype in DTYPES}
    state["list"] = [torch.ones(2), {"x": torch.zeros(1)}]
    dcp.save(state, checkpoint_id=str(tmp_path / "dcp"))
    read = from_dcp(tmp_path / "dcp")
    state["optimizer"]["state"] = {str(key): each for key, each in state["optimizer"]["state"].items()}  # as torch does
    for name in ("model", "types", "list", "history", "best"):
        same(_sorted(read[name]), _sorted(state[name]), name)
    same(_sorted(read["optimizer"]), _sorted(state["optimizer"]))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def test_dcp_keeps_keys_kinds_and_ties(tmp_path: Path) -> None:
    shared = torch.ones(3)
    state = {
        1: {"x": shared},
        "1": 5,
        "a.b": shared,
        "a": {"b": np.arange(3)},
        "pair": (torch.zeros(1), 2),
        "betas": (0.9, 0.5),
        "empty": {},
        "none": None,
        "wide": np.ones(2, complex),
    }
    assert to_dcp(state, tmp_path / "dcp") == {}
    read = from_dcp(tmp_path / "dcp")
    assert read[1]["x"] is read["a.b"]
    same(read, state)


def test_dcp_leaves_out_by_name(tmp_path: Path) -> None:
    left_out = to_dcp({"a": torch.ones(1), "rng": np.random.default_rng(1), "t": np.array(["x"])}, tmp_path / "dcp")
    assert set(left_out) == {"rng", "t"}
    same(from_dcp(tmp_path / "dcp"), {"a": torch.ones(1)})


def test_what_is_no_dcp_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read as a distributed checkpoint"):
        from_dcp(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write"):
        to_dcp({"a": torch.ones(1)}, tmp_path / "file")


def test_keys_that_differ_only_in_kind_stay_apart(tmp_path: Path) -> None:
    state = {"a": {"1": torch.ones(2), 1: {"c": [torch.zeros(3)]}}}
    to_dcp(state, tmp_path / "dcp")
    same(from_dcp(tmp_path / "dcp"), state)


# --- both, random


def made(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.choice(["tensor", "array", "value", "dict", "list", "tuple"] if depth < 3 else ["tensor", "value"])
    if kind == "tensor":
        shape = [rng.randrange(0, 4) for _ in range(rng.randrange(0, 3))]
        return noise(rng.choice(DTYPES), *shape)
    if kind == "array":
        return np.array([rng.random() for _ in range(rng.randrange(0, 5))], dtype=rng.choice(["f4", "i8", "u2", "?"]))
    if kind == "value":
        return rng.choice([None, True, 1 << 70, -0.5, float("nan"), "text", "", [1, 2], (1, "x"), [], ()])
    if kind == "dict":
        keys = [rng.choice(["a", "b.c", "b", "c", 1, 2, "1", None, 0.5]) for _ in range(rng.randrange(0, 4))]
        return {key: made(rng, depth + 1) for key in keys}
    items = [made(rng, depth + 1) for _ in range(rng.randrange(0, 3))]
    return tuple(items) if kind == "tuple" else items


@pytest.mark.parametrize("turn", range(12))
def test_random_states_make_the_round_trip(turn: int, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    state = {f"v{n}": made(rng) for n in range(6)}
    try:
        assert to_safetensors(state, tmp_path / "a.safetensors") == {}
        flat = flatten(state)
        read = from_safetensors(tmp_path / "a.safetensors")
        assert set(read) == {*flat.tensors, *flat.tied}
        for name, tensor in flat.tensors.items():
            same(read[name], tensor, name)
        live: dict[str, Any] = {}
        from_safetensors(tmp_path / "a.safetensors", into=live)
        same(live, build(flat))
        assert to_dcp(state, tmp_path / "dcp") == {}
        same(from_dcp(tmp_path / "dcp"), build(flat))
        same(build(flat), state)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error

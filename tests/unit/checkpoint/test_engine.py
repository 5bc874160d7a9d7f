"""What a save holds is the state at the moment of the call, bit for bit, whatever happens to the state afterwards."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from optional import HAS_TORCH, nn, part, torch

from qcity_nb.checkpoint import Checkpointer, load, memory, save
from qcity_nb.checkpoint.encode import Discarded
from qcity_nb.checkpoint.memory import Arena, Span
from qcity_nb.checkpoint.state import freezer, frozen_buffer, gpu, optimizer_gate
from qcity_nb.errors import CheckpointError, UsageError

SLICE = 4096


@pytest.fixture(autouse=True, scope="module")
def small_slices() -> Iterator[None]:
    """Slices of a page, so that small states have many; and every buffer counts as large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen_buffer, "SLICE", SLICE)
        patch.setattr(freezer, "SMALL_BYTES", 1)
        patch.setattr(freezer, "_PARALLEL_BYTES", 3 * SLICE)
        yield


def bits(state: Any) -> Any:
    """A state's content, comparable: a NaN is equal to the same NaN."""
    if isinstance(state, torch.Tensor):
        flat = torch.empty(state.shape, dtype=state.dtype)  # contiguous() leaves the strides of a single element
        flat.copy_(state.detach())
        return str(state.dtype), tuple(state.shape), flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(state, np.ndarray):
        return str(state.dtype), state.shape, state.tobytes()
    if isinstance(state, dict):
        return {key: bits(item) for key, item in state.items()}
    if isinstance(state, list | tuple):
        return [bits(item) for item in state]
    if isinstance(state, nn.Module | torch.optim.Optimizer):
        return bits(state.state_dict())
    return state


# ------------------------------------------------------------------ sequences of saves

SIZES = (1, 5000, 9001)
MAKERS: list[Callable[[int, int], Any]] = [
    lambda n, seed: np.random.default_rng(seed).random(n),
    lambda n, seed: np.random.default_rng(seed).integers(0, 9, (n, 2)).astype("i2").T,
    lambda n, seed: np.asfortranarray(np.random.default_rng(seed).random((n, 3), dtype="f4")),
    lambda n, seed: np.zeros(n, dtype=[("a", ">i4"), ("b", "f8")]),
    lambda n, seed: np.zeros((0, n)),
    lambda n, seed: {"rows": [seed] * (n % 50), "text": "x" * (n % 7)},
]
if HAS_TORCH:
    MAKERS += [
        lambda n, seed: torch.arange(n, dtype=torch.float32) + seed,
        lambda n, seed: (torch.arange(2 * n) + seed).to(torch.bfloat16)[::2],
        lambda n, seed: (torch.arange(n) % 100 + seed % 7).to(torch.float8_e4m3fn),
        lambda n, seed: torch.zeros(n, dtype=torch.bool),
    ]


def changed(value: Any, how: int, at: int) -> Any:
    """``value`` changed in one of the ways that people change arrays, in place where that is possible."""
    if isinstance(value, dict):
        return {**value, "rows": [*value["rows"], at]}
    if isinstance(value, np.ndarray):
        if value.size:
            raw = value.view() if value.flags.c_contiguous or value.flags.f_contiguous else value
            flat = raw.T.reshape(-1) if raw.flags.f_contiguous else raw.reshape(-1)
            assert np.shares_memory(flat, value)
            raw_bytes = flat.view(np.uint8)
            raw_bytes[at % raw_bytes.size] ^= 1
        return value
    memory = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage())
    if not len(memory):
        return value
    step = value.element_size() * max(value.stride()) if value.dim() else 1
    place = (at * step) % len(memory)
    if how == 0:
        memory[place] ^= 1  # another tensor over the same storage: the counter of ``value`` stays
    elif how == 1:
        memory.numpy()[place] ^= 1  # numpy's alias
    else:
        torch.empty(0, dtype=torch.uint8).set_(value.data.untyped_storage())[place] ^= 1
    return value


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_each_save_restores_what_it_was_though_the_state_keeps_changing(data: st.DataObject) -> None:
    makers = data.draw(st.lists(st.tuples(st.sampled_from(MAKERS), st.sampled_from(SIZES)), min_size=1, max_size=6))
    state: dict[str, Any] = {f"v{n}": make(size, n) for n, (make, size) in enumerate(makers)}
    state["alias"] = state["v0"]
    if isinstance(state["v0"], np.ndarray) and state["v0"].ndim == 1:
        state["view"] = state["v0"][1:]
    with tempfile.TemporaryDirectory() as folder, Checkpointer(folder) as saver:
        for turn in range(data.draw(st.integers(1, 5))):
            expected = bits(copy.deepcopy(state))
            saving = saver.save(state, step=turn)
            for name in list(state):  # at once, while it is hashed and written
                if name.startswith("v") and name != "view" and data.draw(st.booleans(), label=f"change {name}"):
                    state[name] = changed(state[name], data.draw(st.integers(0, 2)), data.draw(st.integers(0, 20_000)))
                    if name == "v0":
                        state["alias"] = state[name]
            saving.wait()
            note(f"turn {turn}: {saving.new_bytes} new bytes")
            assert bits(saver.load()) == expected
        target = {name: copy.deepcopy(value) for name, value in state.items()}
        assert saver.restore(target)
        assert bits(target) == expected
        assert bits(load(folder)) == expected


def test_only_slices_that_changed_are_written(tmp_path: Path) -> None:
    state = {"a": np.zeros(SLICE * 8, np.uint8), "b": np.arange(SLICE * 4, dtype=np.uint8)}
    for value in state.values():
        value[:] = np.random.default_rng(value.size).integers(0, 255, value.size)
    with Checkpointer(tmp_path) as saver:
        first = saver.save(state, mode="sync").new_bytes
        assert SLICE * 12 <= first < SLICE * 13
        assert saver.save(state, mode="sync").new_bytes < 100  # the bytes of the stream itself: nothing
        state["a"][SLICE * 3] += 1
        assert saver.save(state, mode="sync").new_bytes == SLICE
        for _ in range(3):  # also once the guess is that this slice always changes
            state["a"][SLICE * 3] += 1
            assert saver.save(state, mode="sync").new_bytes == SLICE
        assert saver.save(state, mode="sync").new_bytes == 0


def test_arenas_are_one_state_at_most(tmp_path: Path) -> None:
    state = {"a": np.zeros(SLICE * 50, np.uint8)}
    with Checkpointer(tmp_path) as saver:
        for _ in range(4):
            state["a"] += 1
            saver.save(state)
        assert saver._engine.freezer.arena_bytes <= SLICE * 51


def test_short_memory_writes_from_the_live_state_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "available_bytes", lambda: 10)
    state: dict[str, Any] = {"a": np.arange(SLICE * 3, dtype=np.uint8), "t": torch.ones(5000)}
    with Checkpointer(tmp_path) as saver:
        for turn in range(3):
            state["a"] += 1
            expected = bits(copy.deepcopy(state))
            saving = saver.save(state)
            assert saving.done()
            assert saver._engine.freezer.arena_bytes == 0
            state["t"].add_(turn + 1)
            assert bits(saver.load()) == expected


def test_memory_of_another_device_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No GPU here: spans of the host's memory are said to be a device's, which takes the same road.
    tensor = torch.arange(9000, dtype=torch.float32)
    buffer, target = tensor.untyped_storage(), Arena()
    target.begin(buffer.nbytes())
    at = target.allocate(buffer.nbytes())
    gpu.fetch([(buffer, at, buffer.nbytes())])
    assert bytes(memory.view_at(at, buffer.nbytes())) == tensor.numpy().tobytes()
    real = freezer.Freezer.freeze

    def on_device(self: freezer.Freezer, dumped: Any, **options: Any) -> Any:
        for span in dumped.spans:
            span.device = span.keep
        return real(self, dumped, **options)

    monkeypatch.setattr(freezer.Freezer, "freeze", on_device)
    state = {"t": tensor}
    with Checkpointer(tmp_path) as saver:
        for _ in range(3):
            tensor.add_(1)
            expected = bits(copy.deepcopy(state))
            saving = saver.save(state)
            tensor.add_(1)
            saving.wait()
            assert bits(saver.load()) == expected


# ------------------------------------------------------------------ lazily


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 60)
        self.norm = nn.BatchNorm1d(60)
        self.last = nn.Linear(60, 40)
        self.tied = self.last.weight

    def forward(self, x: Any) -> Any:
        return self.last(self.norm(self.first(x)))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.randn(8, 40)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Lazy copies wait as long as they can: until a step waits for them, or this is set."""
    stepping = threading.Event()
    real_later, real_wait = freezer.Freezer._later, optimizer_gate._Hook._wait

    def later(self: freezer.Freezer, *args: Any) -> None:
        assert stepping.wait(30)
        real_later(self, *args)

    def wait(self: optimizer_gate._Hook, *args: Any) -> None:
        stepping.set()
        real_wait(self, *args)
        stepping.clear()

    monkeypatch.setattr(freezer.Freezer, "_later", later)
    monkeypatch.setattr(optimizer_gate._Hook, "_wait", wait)
    yield stepping
    stepping.set()


def fresh(make: Callable[[Any], torch.optim.Optimizer]) -> dict[str, Any]:
    net = Net()
    return {"net": net, "optimizer": make(net.parameters()), "ema": torch.zeros(6000)}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_lazy_save_is_the_state_at_the_call_though_a_whole_iteration_follows(
    tmp_path: Path, late: threading.Event, kind: str
) -> None:
    torch.manual_seed(1)
    state = fresh(OPTIMIZERS[kind])
    lazy = 0
    with Checkpointer(tmp_path) as saver:
        for turn in range(5):
            train(state["net"], state["optimizer"])
            expected = bits(copy.deepcopy(state))
            saving = saver.save(state, mode="lazy", step=turn)
            captured = saver._engine._copying
            assert captured is not None
            assert captured.buffer is not None
            lazy += not captured.buffer.copied.is_set()
            state["ema"] += 1  # nobody's parameter: copied at once
            train(state["net"], state["optimizer"])  # the batch norm's buffers change before the step
            saving.wait()
            back = fresh(OPTIMIZERS[kind])
            train(back["net"], back["optimizer"])
            assert saver.restore(back)
            assert bits(back) == expected
        assert lazy == 4  # the first one sees the hook for the first time, and does not trust it


def test_weights_changed_before_the_step_discard_the_save_and_end_the_trust(
    tmp_path: Path, late: threading.Event
) -> None:
    state = fresh(OPTIMIZERS["adamw"])
    with Checkpointer(tmp_path) as saver:
        saver.save(state, mode="lazy")
        train(state["net"], state["optimizer"])
        expected = bits(copy.deepcopy(state))
        saver.save(state, mode="sync", step=1)
        train(state["net"], state["optimizer"])
        saving = saver.save(state, mode="lazy", step=2)
        with torch.no_grad():
            state["net"].first.weight.mul_(2)
        late.set()
        with pytest.raises(Discarded):
            saving.wait()
        assert bits(saver.load())["ema"] == expected["ema"]
        assert saver.steps() == [1, 2]
        saver.save(state, mode="lazy", step=3)
        assert saver._engine._copying is not None
        assert saver._engine._copying.buffer is not None
        assert saver._engine._copying.buffer.copied.is_set()


def test_an_optimizer_whose_hook_never_fires_is_not_trusted(tmp_path: Path) -> None:
    state = fresh(OPTIMIZERS["sgd"])
    with Checkpointer(tmp_path) as saver:
        for _ in range(3):
            saver.save(state, mode="lazy")
            assert saver._engine._copying is not None
            assert saver._engine._copying.buffer is not None
            assert saver._engine._copying.buffer.copied.is_set()
            with torch.no_grad():
                for parameter in state["net"].parameters():
                    parameter.add_(1)


def test_an_optimizer_that_keeps_what_it_likes_is_saved(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step()
            parameter = self.param_groups[0]["params"][0]
            self.state[parameter] = {"note": "text", "sparse": torch.eye(3).to_sparse(), "m": parameter.detach() * 2}
            self.state["all"] = 7  # type: ignore[index]

    net = nn.Linear(90, 90)
    state: dict[str, Any] = {"net": net, "optimizer": Odd(net.parameters(), lr=0.1)}
    with Checkpointer(tmp_path) as saver:
        for turn in range(4):
            state["optimizer"].step()
            expected = bits(net)
            saver.save(state, mode="lazy", step=turn).wait()
            assert bits(dict(saver.load()["net"].state)) == expected


def test_after_wait_any_change_is_free(tmp_path: Path, late: threading.Event) -> None:
    state: dict[str, Any] = {"a": np.arange(SLICE * 5, dtype=np.uint8), "t": torch.ones(5000)}
    with Checkpointer(tmp_path) as saver:
        expected = bits(copy.deepcopy(state))
        captured = saver._engine.capture(state, lazily="all")
        assert captured.buffer is not None
        assert not captured.buffer.copied.is_set()
        late.set()
        saver.wait()
        state["a"] += 1
        state["t"].numpy()[:] = 3
        assert bits(_loaded(captured)) == expected


def _loaded(captured: Any) -> Any:
    from qcity_nb.checkpoint.state import capture

    return capture.load(captured)


@pytest.mark.parametrize("kind", ["fused", "data", "numpy"])
def test_changes_that_move_no_counter_are_found(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(2)
    state = fresh(OPTIMIZERS["fused"])
    train(state["net"], state["optimizer"])
    weight = state["net"].first.weight
    with Checkpointer(tmp_path) as saver:
        saver.save(state, mode="sync")
        saver.save(state, mode="sync")  # nothing changed: from now on the guess is that nothing does
        before = weight._version
        if kind == "fused":
            train(state["net"], state["optimizer"])
        elif kind == "data":
            weight.data[0, 0] += 1
        else:
            weight.detach().numpy()[0, 0] += 1
        assert kind != "numpy" or weight._version == before
        expected = bits(copy.deepcopy(state))
        saver.save(state, mode="sync")
        back = fresh(OPTIMIZERS["fused"])
        assert saver.restore(back)
        assert bits(back) == expected


# ------------------------------------------------------------------ restore


def test_live_memory_is_read_into_directly(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = {**fresh(OPTIMIZERS["adamw"]), "array": np.arange(9000.0), "fortran": np.asfortranarray(np.ones((90, 70)))}
    train(state["net"], state["optimizer"])
    expected = bits(copy.deepcopy(state))
    save(tmp_path, state)
    places = [state["array"].ctypes.data, state["ema"].data_ptr(), state["net"].first.weight.data_ptr()]
    for value in (state["array"], state["fortran"]):
        value[:] = -1
    state["ema"].fill_(-1)
    train(state["net"], state["optimizer"])
    assert load(tmp_path, into=state) is state
    assert bits(state) == expected
    assert places == [state["array"].ctypes.data, state["ema"].data_ptr(), state["net"].first.weight.data_ptr()]
    assert state["net"].tied is state["net"].last.weight


def test_live_arrays_that_share_memory_the_saved_ones_did_not(tmp_path: Path) -> None:
    save(tmp_path, {"a": np.arange(5000.0), "b": np.arange(5000.0) + 1})
    shared = np.zeros(5000)
    state = {"a": shared, "b": shared}
    load(tmp_path, into=state)
    assert bits(state) == bits({"a": np.arange(5000.0), "b": np.arange(5000.0) + 1})


def test_live_arrays_that_changed_places(tmp_path: Path) -> None:
    each, other = np.arange(5000.0), np.arange(5000.0) + 1
    save(tmp_path, {"a": each, "b": [each, other]})
    left, right = np.zeros(5000), np.zeros(5000)
    state: dict[str, Any] = {
        "a": right,
        "b": [left, right],
    }  # one array of the state stands where two different live ones do
    load(tmp_path, into=state)
    assert state["a"] is state["b"][0]
    assert bits(state) == bits({"a": each, "b": [each, other]})


def test_arrays_inside_of_objects_come_back(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeRegressor

    x = np.random.default_rng(0).random((3000, 4))
    fitted = DecisionTreeRegressor(random_state=0).fit(x, x.sum(axis=1))
    state = {"model": fitted, "x": x.copy()}
    save(tmp_path, state)
    empty: dict[str, Any] = {"model": DecisionTreeRegressor(), "x": np.zeros_like(x)}
    load(tmp_path, into=empty)
    assert np.array_equal(empty["model"].predict(x), fitted.predict(x))


def test_a_damaged_newest_checkpoint_falls_back(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, keep=3) as saver:
        for n in range(3):
            saver.save({"a": np.full(9000, n)}, step=n, mode="sync")
        pack = tmp_path / "packs" / "t1-3.pack"
        data = bytearray(pack.read_bytes())
        data[5000] ^= 1
        pack.write_bytes(data)
        assert saver.load()["a"][0] == 1
        state = {"a": np.zeros(9000, int)}
        assert saver.restore(state)
        assert state["a"][0] == 1
        with pytest.raises(CheckpointError):
            saver.load(number=3)


def test_a_save_that_fails_before_anything_was_written_drops_nothing(tmp_path: Path) -> None:
    save(tmp_path, {"a": np.arange(9000)})
    with Checkpointer(tmp_path) as saver:

        def fail() -> Any:
            raise Discarded("for a reason")

        with pytest.raises(Discarded):
            saver._engine.submit(fail, []).wait()
    assert load(tmp_path)["a"][5] == 5


@pytest.mark.parametrize("mode", ["sync", "blocking", "lazy"])
def test_save_and_load_alone_in_each_mode(tmp_path: Path, mode: Any) -> None:
    state = fresh(OPTIMIZERS["adamw"])
    for turn in range(4):
        train(state["net"], state["optimizer"])
        expected = bits(copy.deepcopy(state))
        saving = save(tmp_path, state, step=turn, mode=mode)
        assert mode != "sync" or saving.done()
        saving.wait_copied()
        state["ema"] += 1
        with torch.no_grad():
            state["net"].first.weight.mul_(2)
        back = fresh(OPTIMIZERS["adamw"])
        load(tmp_path, into=back)
        assert bits(back) == expected


def test_bad_arguments(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as saver:
        with pytest.raises(UsageError, match="sync"):
            saver.save({}, mode="now")  # type: ignore[arg-type]
        assert not saver.restore({})
        with pytest.raises(CheckpointError, match="no checkpoint"):
            saver.load()


def test_a_span_knows_what_keeps_it() -> None:
    assert Span(0, 0, None).hint == -1


ALONE = """
import sys
import numpy as np
from qcity_nb.checkpoint import load, save
assert "numpy" in sys.modules and "torch" not in sys.modules
state = {"a": np.arange(300_000.0), "n": 3}
save(sys.argv[1], state)
load(sys.argv[1], into=state)
found = load(sys.argv[1])
assert found["a"][-1] == 299_999
print(*sorted(name for name in ("torch", "jax", "mlflow", "papermill", "huggingface_hub") if name in sys.modules))
"""


def test_nothing_is_imported_that_the_state_does_not_hold(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


# ------------------------------------------------------------------ jax


def test_jax_arrays_come_back_exact(tmp_path: Path) -> None:
    jax = part("jax")
    state = {
        "x": jax.numpy.arange(5000, dtype="float32") / 3,
        "half": jax.numpy.arange(5000, dtype="bfloat16"),
        "key": jax.random.key(7),
        "n": jax.numpy.int32(3),
    }
    save(tmp_path, state)
    back = load(tmp_path, into=dict.fromkeys(state))
    for name in ("x", "half", "n"):
        assert isinstance(back[name], jax.Array)
        assert np.asarray(back[name]).tobytes() == np.asarray(state[name]).tobytes()
    assert jax.random.uniform(back["key"]) == jax.random.uniform(state["key"])

"""What is restored equals what was captured, in place, whatever the caller did to its state in between."""

from __future__ import annotations

import collections
import dataclasses
import io
import random
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optional import HAS_TORCH, nn, torch

from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.state.capture import (
    Captured,
    capture,
    capture_generators,
    check_state,
    load,
    restore,
    restore_generators,
)
from qcity_nb.checkpoint.state.frozen_buffer import SmallBuffer
from qcity_nb.checkpoint.state.pickling import INLINE_BYTES, StateDict
from qcity_nb.errors import CheckpointError, StateRefused


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("left", "right")

    left: Any
    right: Any


@dataclasses.dataclass
class Record:
    x: int = 0
    items: list[int] = dataclasses.field(default_factory=list)


class Keeper:
    """Leaves its lock out of what it saves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self.n}


class Custom:
    """Restores itself from something that is no dict."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    def __getstate__(self) -> Any:
        return [self.n]

    def __setstate__(self, state: Any) -> None:
        self.n = state[0]


def bits(value: Any) -> bytes:
    """The content of a tensor or array, in C order."""
    if isinstance(value, torch.Tensor):
        return bytes(value.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
    return bytes(value.tobytes())


def same(left: Any, right: Any) -> bool:
    """Equal, to the bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray | torch.Tensor):
        return bool(left.dtype == right.dtype and left.shape == right.shape and bits(left) == bits(right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple | collections.deque):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Plain):
        return same(left.__dict__, right.__dict__)
    return bool(repr(left) == repr(right) if isinstance(left, float) else left == right)


# ------------------------------------------------------------------ properties

DTYPES: list[Any] = ["f4", "f8", "i2", "u1", ">i4", "c8", "?", "M8[s]", "S3", [("a", "i4"), ("b", "f8")]]
arrays: Any = hnp.arrays(
    dtype=st.sampled_from(DTYPES),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)
layouts: list[Callable[[Any], Any]] = [
    lambda a: a,
    lambda a: np.asfortranarray(a),
    lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a,
    lambda a: a[::-1] if a.ndim else a,
    lambda a: np.tile(a, 400),
]
tensors = st.builds(
    lambda n, dtype: torch.arange(n).to(getattr(torch, dtype)),
    st.integers(0, 2000),
    st.sampled_from(["float32", "bfloat16", "float16", "int64", "bool", "float8_e4m3fn"]),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(lambda a, f: f(a), arrays, st.sampled_from(layouts)),
    *([tensors] if HAS_TORCH else []),
    st.builds(bytearray, st.binary(max_size=5)),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.tuples(inner, inner),
        st.builds(collections.deque, st.lists(inner, max_size=3)),
        st.builds(lambda x, y: Plain(x=x, y=y), inner, inner),
        st.sets(st.integers(), max_size=3),
    ),
    max_leaves=12,
)
states = st.dictionaries(st.text(max_size=3), values, max_size=5)


def ruin(value: Any) -> None:
    """Change everything in a state that can be changed."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable and value.size:
            value.view(np.ndarray).fill(np.zeros((), value.dtype))
            value.flat[0] = (
                np.ones(1, "u1").astype("?").astype(value.dtype)[0] if value.dtype.names is None else value.flat[0]
            )
    elif isinstance(value, torch.Tensor):
        if value.numel():
            value.view(torch.uint8).fill_(1)
    elif isinstance(value, dict):
        for item in value.values():
            ruin(item)
        value["ruined"] = 1
    elif isinstance(value, list | collections.deque):
        for item in value:
            ruin(item)
        value.append("ruined")
    elif isinstance(value, tuple):
        for item in value:
            ruin(item)
    elif isinstance(value, Plain):
        ruin(value.__dict__)
    elif isinstance(value, set | bytearray):
        value.clear()


@given(states)
def test_restore_gives_what_was_captured(state: dict[str, Any]) -> None:
    captured = capture(state)
    expected = load(captured)
    assert same(state, expected)
    ruin(state)
    assert same(load(captured), expected)
    restore(state, captured)
    assert same(state, expected)
    ruin(state)
    restore(state, captured)
    assert same(state, expected)


@given(states, states)
def test_restore_into_any_other_state(state: dict[str, Any], other: dict[str, Any]) -> None:
    captured = capture(state)
    restore(other, captured)
    assert list(other) == list(state)
    ruin(state)
    encoded, objects = encode_state(captured)
    assert same(other, load(decode_state(encoded, lambda name: bytes(objects[name]))))


@given(st.data())
def test_objects_of_the_state_stay_the_same_objects(data: st.DataObject) -> None:
    inner = data.draw(states)
    state: dict[str, Any] = {"list": [inner], "plain": Plain(inner=inner), "deque": collections.deque([1])}
    kept = (state["list"], state["plain"], inner, state["deque"])
    captured = capture(state)
    ruin(state)
    restore(state, captured)
    assert (state["list"], state["plain"], state["list"][0], state["deque"]) == kept
    assert state["list"] is kept[0]
    assert state["plain"] is kept[1]
    assert state["list"][0] is state["plain"].inner is inner


# ------------------------------------------------------------------ torch

Trained = dict[str, Any]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.body = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 16))
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(self.embed(x)))
        return out


def build(optimizer: str) -> Trained:
    torch.manual_seed(1)
    net = Tied()
    opt: torch.optim.Optimizer
    if optimizer == "adam":
        opt = torch.optim.Adam(net.parameters(), lr=1e-2, amsgrad=True)
    elif optimizer == "adamw-fused":
        opt = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)
    else:
        opt = torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9)
    return {
        "nets": [net],
        "opt": opt,
        "schedulers": (
            torch.optim.lr_scheduler.CosineAnnealingLR(opt, 30),
            torch.optim.lr_scheduler.ReduceLROnPlateau(opt),
        ),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
        "ema": torch.optim.swa_utils.AveragedModel(net),
        "rng": np.random.default_rng(3),
        "losses": [],
    }


def train(state: Trained, steps: int) -> None:
    net, opt = state["nets"][0], state["opt"]
    for _ in range(steps):
        x = torch.from_numpy(state["rng"].integers(0, 20, 32))
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), torch.randint(0, 20, (32,)))
        state["scaler"].scale(loss).backward()
        state["scaler"].step(opt)
        state["scaler"].update()
        state["schedulers"][0].step()
        state["schedulers"][1].step(loss.item())
        state["ema"].update_parameters(net)
        state["losses"].append(loss.item())


def contents(state: Trained) -> Any:
    return load(capture(state))


def flat(value: Any) -> Any:
    if isinstance(value, StateDict):
        return {"state_dict": flat(value.state)}
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value


@pytest.mark.parametrize("optimizer", ["adam", "adamw-fused", "sgd"])
def test_training_resumes_bit_for_bit(optimizer: str) -> None:
    state = build(optimizer)
    torch.manual_seed(7)
    train(state, 6)
    captured, generators = capture(state), capture_generators()
    train(state, 6)  # changes everything after the capture
    again = build(optimizer)
    weight = again["nets"][0].embed.weight
    restore(again, captured)
    restore_generators(generators)
    train(again, 6)
    assert again["losses"] == state["losses"]
    assert same(flat(contents(again)), flat(contents(state)))
    net = again["nets"][0]
    assert net.head.weight is net.embed.weight is weight
    assert again["opt"].param_groups[0]["params"][0] is weight


def test_tied_weights_are_saved_once() -> None:
    net = Tied()
    net.embed = nn.Embedding(2000, 16)
    net.head.weight = net.embed.weight
    assert capture(net).size_bytes < 1.3 * net.embed.weight.nbytes


def test_tensors_that_share_memory_still_do() -> None:
    base = torch.arange(5000.0)
    state = {"base": base, "view": base[10:20], "matrix": base.view(50, 100).t(), "small": torch.zeros(3)}
    state["alias"] = state["small"]
    captured = capture(state)
    assert captured.size_bytes < 1.2 * base.nbytes
    for target in ({}, state):
        restore(target, captured)
        target["base"][10] = -1
        target["matrix"][0, 1] = -2
        assert target["view"][0] == -1
        assert target["base"][100] == -2
        assert target["alias"] is target["small"]
    fresh = load(captured)
    assert fresh["base"].data_ptr() % 64 == 0


def test_parameters_and_flags_come_back() -> None:
    state: dict[str, Any] = {
        "parameter": nn.Parameter(torch.ones(3)),
        "leaf": torch.ones(2, requires_grad=True),
        "sparse": torch.eye(3).to_sparse(),
        "conj": torch.complex(torch.ones(2), torch.ones(2)).conj(),
        "empty": torch.empty(0, 3),
        "expanded": torch.ones(1).expand(4),
    }
    fresh = load(capture(state))
    assert type(fresh["parameter"]) is nn.Parameter
    assert fresh["leaf"].requires_grad
    assert all(torch.equal(fresh[key].to_dense(), state[key].to_dense()) for key in state)
    leaf = state["leaf"]
    captured = capture(state)
    with torch.no_grad():
        leaf.zero_()
    restore(state, captured)
    assert state["leaf"] is leaf
    assert leaf.tolist() == [1, 1]
    assert leaf.is_leaf


@pytest.mark.parametrize(
    "generator",
    [
        lambda seed: random.Random(seed),
        lambda seed: np.random.default_rng(seed),
        lambda seed: np.random.Generator(np.random.MT19937(seed)),
        lambda seed: np.random.RandomState(seed),
        lambda seed: torch.Generator().manual_seed(seed),
    ],
)
def test_generators_continue_in_place(generator: Callable[[int], Any]) -> None:
    def draw(rng: Any) -> Any:
        if isinstance(rng, torch.Generator):
            return torch.rand(3, generator=rng).tolist()
        if isinstance(rng, np.random.Generator):
            return [rng.normal(), rng.spawn(1)[0].normal()]
        return [rng.normalvariate(0, 1)] if isinstance(rng, random.Random) else rng.normal(size=3).tolist()

    rng = generator(1)
    draw(rng)
    captured = capture({"rng": rng})
    expected = [draw(rng) for _ in range(3)]
    for other in (rng, generator(2)):
        state = {"rng": other}
        restore(state, captured)
        assert state["rng"] is other
        assert [draw(other) for _ in range(3)] == expected
        restore(other, capture(generator(5)))
        assert draw(other) == draw(generator(5))


def test_global_generators_come_back() -> None:
    captured = capture_generators()

    def draw() -> tuple[Any, ...]:
        return random.random(), np.random.rand(), np.random.normal(), torch.rand(1).item() if HAS_TORCH else 0

    expected = draw()
    draw()
    restore_generators(captured)
    assert draw() == expected


# ------------------------------------------------------------------ identity and aliases


def test_aliases_are_those_of_the_checkpoint() -> None:
    shared = [1]
    captured = capture({"a": shared, "b": shared, "c": [1]})
    left, right = [0], [0]
    state: dict[str, Any] = {"a": left, "b": right, "c": left, "d": 4}
    restore(state, captured)
    assert state["a"] is state["b"] is left
    assert state["c"] is not left
    assert state == {"a": [1], "b": [1], "c": [1]}


def test_a_cycle_comes_back() -> None:
    node = Plain(n=1)
    node.self = node  # type: ignore[attr-defined]  # any attribute goes
    state: dict[str, Any] = {"node": node, "more": [node]}
    state["state"] = state
    captured = capture(state)
    node.n = 2  # type: ignore[attr-defined]  # the same
    state["more"].clear()
    restore(state, captured)
    assert (state["node"], state["state"], state["more"]) == (node, state, [node])
    assert (node.__dict__["n"], node.__dict__["self"]) == (1, node)


def test_new_objects_refer_to_the_live_ones() -> None:
    net = nn.Linear(2, 2)
    captured = capture({"first": Plain(net=net, tag=[1]), "net": net})
    live = nn.Linear(2, 2)
    state: dict[str, Any] = {"net": live}
    restore(state, captured)
    assert state["first"].net is live
    assert torch.equal(live.weight, net.weight)


def test_numpy_views_of_one_array_stay_views() -> None:
    base = np.arange(3000.0)
    state = {"whole": base, "part": base[5:50:2], "turned": base.reshape(30, 100).T, "apart": np.arange(3.0)}
    captured = capture(state)
    assert captured.size_bytes < 1.1 * base.nbytes
    for target in ({}, state):
        restore(target, captured)
        target["whole"][7] = -1
        assert target["part"][1] == -1
        assert target["turned"][7, 0] == -1
    assert target["whole"] is base


def test_live_views_that_the_checkpoint_does_not_have_are_replaced() -> None:
    captured = capture({"a": np.zeros(4), "b": np.ones(4)})
    whole = np.full(6, 9.0)
    state = {"a": whole[:4], "b": whole[2:]}
    restore(state, captured)
    assert state["a"].tolist() == [0] * 4
    assert state["b"].tolist() == [1] * 4
    rows = np.full(8, 9.0)
    state = {"a": rows[:4], "b": rows[4:]}
    restore(state, captured)
    assert rows.tolist() == [0] * 4 + [1] * 4
    if not HAS_TORCH:
        return
    tensors = torch.full((6,), 9.0)
    other = {"a": tensors[:4], "b": tensors[2:]}
    restore(other, capture({"a": torch.zeros(4), "b": torch.ones(4)}))
    assert other["b"].tolist() == [1] * 4
    assert other["a"].tolist() == [0] * 4


@pytest.mark.parametrize("size", [10, INLINE_BYTES])
def test_arrays_are_filled_or_replaced(size: int, tmp_path: Path) -> None:
    captured = capture({"a": np.arange(size)})
    fitting = np.zeros(size, dtype=int)
    state: dict[str, Any] = {"a": fitting}
    restore(state, captured)
    assert state["a"] is fitting
    assert fitting.tolist() == list(range(size))
    fixed = np.zeros(size, dtype=int)
    fixed.flags.writeable = False
    for other in (np.zeros(size), np.zeros(size + 1, dtype=int), [1], None, fixed):
        state = {"a": other}
        restore(state, captured)
        assert state["a"] is not other
        assert state["a"].tolist() == list(range(size))
        state["a"][0] = 5  # what is new can be written to
    mapped = np.memmap(tmp_path / "file", dtype=int, mode="w+", shape=(size,))
    state = {"a": mapped}
    restore(state, captured)
    assert state["a"] is mapped
    assert type(load(capture(state))["a"]) is np.ndarray
    fixed = load(capture({"a": fixed}))["a"]
    assert not fixed.flags.writeable


def test_object_arrays_and_array_subclasses_come_back() -> None:
    state = {"objects": np.array([1, "a", None], dtype=object), "masked": np.ma.masked_less(np.arange(4), 2)}
    captured = capture(state)
    state["objects"][0] = 2
    restore(state, captured)
    assert state["objects"].tolist() == [1, "a", None]
    assert state["masked"].tolist() == [None, None, 2, 3]


# ------------------------------------------------------------------ plain objects


def test_objects_are_restored_through_their_attributes() -> None:
    slotted = Slotted()
    slotted.left = [1]
    record, keeper, custom = Record(x=1, items=[1]), Keeper(), Custom(3)
    state = {"slotted": slotted, "record": record, "keeper": keeper, "custom": custom, "plain": Plain(a=1)}
    items, left = record.items, slotted.left
    captured = capture(state)
    slotted.left, slotted.right = [2], 3
    record.x, custom.n, keeper.n = 2, 4, 5
    items.append(2)
    state["plain"].later = 1  # type: ignore[attr-defined]  # any attribute goes
    lock = keeper.lock
    restore(state, captured)
    assert slotted.left == left == [1]
    assert not hasattr(slotted, "right")
    assert record == Record(x=1, items=[1])
    assert record.items is items
    assert custom.n == 3
    assert keeper.n == 0
    assert keeper.lock is lock
    assert state["plain"].__dict__ == {"a": 1}
    assert [state[key] for key in ("slotted", "record", "keeper", "custom")] == [
        slotted,
        record,
        keeper,
        custom,
    ]


@pytest.mark.parametrize(
    ("saved", "other"),
    [
        ([1, [2]], [3]),
        (np.arange(3.0), np.zeros(3)),
        *([(torch.arange(3.0), torch.zeros(3))] if HAS_TORCH else []),
        (Plain(a=1), Plain(b=2)),
        (collections.OrderedDict(a=1), collections.OrderedDict(b=1)),
        (collections.defaultdict(list, a=[1]), collections.defaultdict(int)),
        (collections.Counter("aab"), collections.Counter("c")),
        (collections.deque([1], maxlen=2), collections.deque([5, 6], maxlen=2)),
        ({1, 2}, {3}),
        (bytearray(b"abc"), bytearray()),
    ],
)
def test_any_mutable_top_level_is_restored_in_place(saved: Any, other: Any) -> None:
    check_state(other)
    restore(other, capture(saved))
    assert same(load(capture(other)), load(capture(saved)))
    assert type(other) is type(saved)


def test_estimators_are_restored_in_place() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is in the extra `all`")
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    model = linear.SGDClassifier(random_state=0).partial_fit(x, y, classes=[0, 1, 2])
    captured = capture(model)
    expected = model.partial_fit(x, y).coef_.tobytes()
    fresh = linear.SGDClassifier(random_state=0)
    check_state(fresh)
    restore(fresh, captured)
    assert fresh.partial_fit(x, y).coef_.tobytes() == expected
    unfitted = capture(linear.SGDClassifier())
    restore(model, unfitted)
    assert not hasattr(model, "coef_")


def test_frames_are_restored() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra `all`")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    state = {"frame": frame}
    captured = capture(state)
    frame.loc[0, "a"] = 9
    frame["c"] = 1
    restore(state, captured)
    assert state["frame"].to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}


def test_nothing_carries_over() -> None:
    check_state(None)
    restore(None, capture(None))


def test_lambdas_and_local_classes_come_back() -> None:
    class Local:
        value = 3

    factor = 2
    state: dict[str, Any] = {"double": lambda x: factor * x, "local": Local(), "cls": Local}
    captured = capture(state)
    local = state["local"]
    local.value = 4
    restore(state, captured)
    assert state["double"](4) == 8
    assert state["local"] is local
    assert local.value == 3
    assert load(captured)["local"].value == 3


def test_deep_states_that_pickle_takes_come_back() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    captured = capture({"deep": deep})
    state: dict[str, Any] = {"deep": []}
    restore(state, captured)
    assert state["deep"] == deep


MAIN = """
import sys
from pathlib import Path
class Net:
    def __init__(self, n): self.n = n
def twice(x): return 2 * x
from qcity_nb.checkpoint.state.capture import Captured, capture, restore
file = Path(sys.argv[1])
state = {"net": Net(int(sys.argv[2])), "f": twice, "g": lambda x: x + 1}
if file.exists():
    restore(state, Captured(skeleton=file.read_bytes()))
    assert type(state["net"]) is Net, "the class is the live one"
    assert state["f"] is twice
    print(state["net"].n, state["g"](1))
else:
    file.write_bytes(capture(state).skeleton)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


def test_objects_of_a_notebook_belong_to_its_live_classes(tmp_path: Path) -> None:
    for n, expected in ((1, b""), (2, b"1 2")):
        out = subprocess.run(
            [sys.executable, "-c", MAIN, str(tmp_path / "skeleton"), str(n)],
            stdout=subprocess.PIPE,
            check=True,
            timeout=60,
        )
        assert out.stdout.strip() == expected


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("state", [1, 1.5, "a", b"a", (1, [2]), frozenset({1}), True, range(3), print, Plain])
def test_immutable_states_are_refused(state: object) -> None:
    with pytest.raises(StateRefused, match="use a dict"):
        check_state(state)


def numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (numbers, "generator lives only in this process"),
        (lambda: open(__file__, encoding="utf-8"), "open file"),  # noqa: SIM115, PTH123 - the test closes it
        (threading.Lock, "lock lives only"),
        (threading.RLock, "RLock lives only"),
        (lambda: threading.Thread(target=print), "Thread lives only"),
        (socket.socket, "socket"),
        (lambda: torch.ones(2, requires_grad=True) * 2, "autograd graph"),
        (lambda: torch.ones(2, device="meta"), "meta device"),
        (lambda: iter(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(1)))), "generator"),
        (lambda: sqlite3.connect(":memory:"), "cannot be pickled"),
    ],
)
def test_what_cannot_be_saved_is_named(make: Callable[[], Any], why: str) -> None:
    bad = make()
    state: dict[str, Any] = {"fine": [1], "it": bad}
    try:
        with pytest.raises(StateRefused, match=rf"^state\['it'\].*{why}") as caught:
            capture(state)
        assert "\n" not in str(caught.value)
        with pytest.raises(StateRefused, match=rf"^state\['a'\]\[1\]\.field\['it'\].*{why}"):
            capture({"a": [0, Plain(field=state)]})
    finally:
        if isinstance(bad, socket.socket | io.IOBase | sqlite3.Connection):
            bad.close()


def test_a_module_that_does_not_fit_is_named() -> None:
    captured = capture({"nets": [nn.Linear(2, 3)]})
    with pytest.raises(CheckpointError, match=r"^state\['nets'\]\[0\] does not fit .*size mismatch"):
        restore({"nets": [nn.Linear(2, 4)]}, captured)
    others: list[dict[str, Any]] = [{}, {"nets": []}, {"nets": [3]}]
    for state in others:
        with pytest.raises(CheckpointError, match=r"^state\['nets'\]\[0\] was saved as the state_dict .*Linear"):
            restore(state, captured)


def test_another_kind_of_top_level_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"shape \(3,\).*shape \(4,\)"):
        restore(np.zeros(3), capture(np.zeros(4)))
    with pytest.raises(CheckpointError, match=r"a list.*a dict"):
        restore([], capture({}))


def test_a_damaged_stream_is_an_error_of_ours() -> None:
    captured = capture({"a": np.zeros(10_000), "b": (torch if HAS_TORCH else np).zeros(10_000)})
    for n in range(0, len(captured.skeleton), 7):
        with pytest.raises(CheckpointError):
            load(Captured(skeleton=captured.skeleton[:n], buffers=captured.buffers))
    for buffers in ((), captured.buffers[:1], (SmallBuffer(b""), SmallBuffer(b""))):
        with pytest.raises(CheckpointError):
            load(Captured(skeleton=captured.skeleton, buffers=buffers))


def test_a_missing_class_is_named(tmp_path: Path) -> None:
    captured = capture({"a": Plain()})
    renamed = captured.skeleton.replace(b"Plain", b"Plane")
    with pytest.raises(CheckpointError, match="Plane"):
        load(Captured(skeleton=renamed))

"""What a loop says of its state at the first boundaries."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from loop_source import LoopSource
from optional import HAS_TORCH

from qcity_nb.errors import StateRefused
from qcity_nb.kernel.changes import state_check

needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="needs torch: pip install torch==2.13.0")


@pytest.fixture
def source(tmp_path: Path) -> LoopSource:
    return LoopSource(tmp_path)


def named(source: LoopSource) -> set[str]:
    """The variables that were named, without those of the line to write."""
    texts = [text.partition(" After a restart")[0] for text in source.messages]
    return {name for text in texts for name in re.findall(r"`([^`]+)`", text)} - {"state"}


HEAD = "import numpy as np, random, collections\nw = np.zeros(3)\nhistory = []\nbest = 0.0\nn = 0\n"

FAULTY = {
    "rebound": ("for e in city.loop(range(4), state={'w': w}):\n    w = w + 1\n", {"w"}),
    "rebound in a function": (
        "def train():\n    w = np.zeros(3)\n    for e in city.loop(range(4), state={'w': w}):\n        w = w + 1\n"
        "    return w\ntrain()\n",
        {"w"},
    ),
    "a counter in a dict": ("for e in city.loop(range(4), state={'n': n}):\n    n += 1\n", {"n"}),
    "history": ("for e in city.loop(range(4), state={'w': w}):\n    history.append(e)\nprint(history)\n", {"history"}),
    "best": ("for e in city.loop(range(4), state={}):\n    best = max(best, e)\n", {"best"}),
    "best and its weights": (
        "for e in city.loop(range(4), state={'w': w}):\n    w += 1\n    if w.sum() > best:\n"
        "        best = w.sum()\n        kept = w.copy()\nprint(kept)\n",
        {"best", "kept"},
    ),
    "mirrored, not read back": (
        "state = {'best': 0.0}\nfor e in city.loop(range(4), state=state):\n"
        "    best = max(best, e)\n    state['best'] = best\n",
        {"best"},
    ),
    "a generator of numpy": (
        "rng = np.random.default_rng(0)\nfor e in city.loop(range(4), state={'w': w}):\n    w += rng.normal()\n",
        {"rng"},
    ),
    "a generator of Python": (
        "rng = random.Random(0)\nfor e in city.loop(range(4), state={'w': w}):\n    w += rng.random()\n",
        {"rng"},
    ),
    "an order that is shuffled": (
        "order = list(range(9))\nfor e in city.loop(range(4), state={'w': w}):\n    random.shuffle(order)\n"
        "    w += order[0]\n",
        {"order"},
    ),
    "changed by a function": (
        "def note(x):\n    history.append(x)\nfor e in city.loop(range(4), state={'w': w}):\n    note(e)\n"
        "print(history)\n",
        {"history"},
    ),
    "changed by a function that is given it": (
        "def note(rows, x):\n    rows.append(x)\nfor e in city.loop(range(4), state={'w': w}):\n    note(history, e)\n",
        {"history"},
    ),
    "a global of a function": (
        "def count():\n    global n\n    n += 1\nfor e in city.loop(range(4), state={'w': w}):\n    count()\n",
        {"n"},
    ),
    "an iterator": (
        "numbers = iter(range(9))\nfor e in city.loop(range(4), state={'w': w}):\n    w += next(numbers)\n",
        {"numbers"},
    ),
    "an object of the user's": (
        "class Stopper:\n    bad = 0\n    def check(self, x):\n        self.bad += 1\n        return self.bad > 9\n"
        "stopper = Stopper()\nfor e in city.loop(range(4), state={'w': w}):\n    if stopper.check(e):\n        break\n",
        {"stopper"},
    ),
    "an object whose counts are read": (
        "class Client:\n    calls = 0\n    def get(self, x):\n        self.calls += 1\n        return x * self.calls\n"
        "client = Client()\nfor e in city.loop(range(4), state={'w': w}):\n    w += client.get(e)\n",
        {"client"},
    ),
    "an entry that is read before it is set": (
        "stats = {'last': 0}\nfor e in city.loop(range(4), state={'w': w}):\n    w += stats['last']\n"
        "    stats['last'] = e\n",
        {"stats"},
    ),
    "changed by functions in a list": (
        "def note(x):\n    history.append(x)\ncalls = [note, print]\nfor e in city.loop(range(4), state={'w': w}):\n"
        "    for call in calls:\n        call(e)\nprint(history)\n",
        {"history"},
    ),
    "changed by a function that is handed over": (
        "def note(x):\n    history.append(x)\nfor e in city.loop(range(4), state={'w': w}):\n"
        "    list(map(note, [e]))\nprint(history)\n",
        {"history"},
    ),
    "read by a method before the body binds it": (
        "class Trainer:\n    rate = 1.0\n    def step(self, w):\n        w += self.rate\n    def fit(self, w):\n"
        "        for e in city.loop(range(4), state={'w': w}):\n            self.step(w)\n"
        "            self.rate = 1 / (e + 2)\nTrainer().fit(w)\n",
        {"self.rate"},
    ),
    "a date": (
        "import datetime\nday = datetime.date(2020, 1, 1)\nfor e in city.loop(range(4), state={'w': w}):\n"
        "    w += day.day\n    day += datetime.timedelta(days=1)\n",
        {"day"},
    ),
    "a frame through a view": (
        "import pandas\nframe = pandas.DataFrame({'a': [0, 0, 0, 0]})\nfor e in city.loop(range(4), state={'w': w}):\n"
        "    frame.loc[e, 'a'] = e\nprint(frame)\n",
        {"frame"},
    ),
    "an attribute": (
        "class Trainer:\n    def __init__(self):\n        self.w, self.best = np.zeros(3), 0\n    def fit(self):\n"
        "        for e in city.loop(range(4), state={'w': self.w}):\n            self.w += 1\n"
        "            self.best = max(self.best, self.w.sum())\nTrainer().fit()\n",
        {"self.best"},
    ),
}


@pytest.mark.parametrize(("text", "names"), FAULTY.values(), ids=FAULTY)
def test_what_a_restart_would_lose_is_named(text: str, names: set[str], source: LoopSource) -> None:
    source.run(HEAD + text)
    assert named(source) == names


def test_a_state_that_is_bound_anew(source: LoopSource) -> None:
    source.run("state = {'n': 0}\nfor e in city.loop(range(4), state=state):\n    state = {'n': state['n'] + 1}\n")
    (text,) = source.messages
    assert "`state` is bound anew" in text
    assert "state.update(…)" in text


TORCH = "import torch\nmodel = torch.nn.Linear(2, 1)\nx = torch.ones(4, 2)\n"
STEP = "    optimizer.zero_grad()\n    model(x).sum().backward()\n    optimizer.step()\n"
FAULTY_TORCH = {
    "optimizer": (
        "optimizer = torch.optim.Adam(model.parameters())\nfor e in city.loop(range(4), state={'model': model}):\n"
        + STEP,
        {"optimizer"},
    ),
    "model": (
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "for e in city.loop(range(4), state={'optimizer': optimizer}):\n" + STEP,
        {"model"},
    ),
    "optimizer in a function": (
        "optimizer = torch.optim.Adam(model.parameters())\ndef train():\n" + STEP + "for e in "
        "city.loop(range(4), state={'model': model}):\n    train()\n",
        {"optimizer"},
    ),
    "scheduler": (
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)\n"
        "for e in city.loop(range(4), state={'model': model, 'optimizer': optimizer}):\n"
        + STEP + "    scheduler.step()\n",
        {"scheduler"},
    ),
    "scaler": (
        "optimizer = torch.optim.Adam(model.parameters())\nscaler = torch.amp.GradScaler('cpu')\n"
        "for e in city.loop(range(4), state={'model': model, 'optimizer': optimizer}):\n"
        "    optimizer.zero_grad()\n    scaler.scale(model(x).sum()).backward()\n    scaler.step(optimizer)\n"
        "    scaler.update()\n",
        {"scaler"},
    ),
    "the second of two optimizers": (
        "other = torch.nn.Linear(2, 1)\noptimizer = torch.optim.Adam(model.parameters())\n"
        "second = torch.optim.Adam(other.parameters())\n"
        "for e in city.loop(range(4), state={'model': model, 'optimizer': optimizer, 'other': other}):\n"
        + STEP + "    second.zero_grad()\n    other(x).sum().backward()\n    second.step()\n",
        {"second"},
    ),
    "an attribute of a model, which saves its parameters alone": (
        "model.losses = []\nfor e in city.loop(range(4), state={'model': model}):\n    model.losses.append(e)\n"
        "print(model.losses)\n",
        {"model.losses"},
    ),
    "raw parameters through a view": (
        "w = torch.zeros(3, requires_grad=True)\nfor e in city.loop(range(4), state={'model': model}):\n"
        "    ((w - 1) ** 2).sum().backward()\n    w.data -= 0.1 * w.grad\n    w.grad = None\n",
        {"w"},
    ),
    "optimizers in a list": (
        "optimizers = [torch.optim.Adam(model.parameters()) for _ in range(2)]\nfirst = optimizers[0]\n"
        "for e in city.loop(range(4), state={'model': model}):\n    for optimizer in optimizers:\n"
        "        optimizer.zero_grad()\n        model(x).sum().backward()\n        optimizer.step()\n",
        {"optimizers"},
    ),
    "a generator of torch": (
        "g = torch.Generator().manual_seed(1)\nfor e in city.loop(range(4), state={'model': model}):\n"
        "    torch.rand(2, generator=g)\n",
        {"g"},
    ),
    "averaged weights": (
        "optimizer = torch.optim.Adam(model.parameters())\naveraged = torch.optim.swa_utils.AveragedModel(model)\n"
        "for e in city.loop(range(4), state={'model': model, 'optimizer': optimizer}):\n" + STEP
        + "    averaged.update_parameters(model)\n",
        {"averaged"},
    ),
}  # fmt: skip


@needs_torch
@pytest.mark.parametrize(("text", "names"), FAULTY_TORCH.values(), ids=FAULTY_TORCH)
def test_what_belongs_to_a_model_and_is_missing_is_named(text: str, names: set[str], source: LoopSource) -> None:
    source.run(TORCH + text)
    assert named(source) == names


RIGHT = {
    "in place": "for e in city.loop(range(4), state={'w': w}):\n    w += 1\n",
    "a dict": "state = {'n': 0}\nfor e in city.loop(range(4), state=state):\n    state['n'] += 1\n",
    "read from the state and put back": (
        "state = {'w': w}\nfor e in city.loop(range(4), state=state):\n    w = state['w']\n    w = w + 1\n"
        "    state['w'] = w\n"
    ),
    "made anew": (
        "for e in city.loop(range(4), state=None):\n    total = 0\n    for x in range(3):\n        total += x\n"
        "print(total)\n"
    ),
    "a clock": (
        "import time\nt0 = time.time()\nfor e in city.loop(range(4), state=None):\n    now = time.time()\n"
        "    print(now - t0)\n    t0 = now\n"
    ),
    "a cache": (
        "cache = {}\nfor e in city.loop(range(4), state=None):\n    key = e % 2\n    if key not in cache:\n"
        "        cache[key] = key ** 2\n    print(cache[key])\n"
    ),
    "attributes of an object in the state": (
        "class Trainer:\n    def __init__(self):\n        self.best = 0\n    def fit(self):\n"
        "        for e in city.loop(range(4), state=self):\n            self.best = max(self.best, e)\n"
        "Trainer().fit()\n"
    ),
    "a generator in the state": (
        "rng = np.random.default_rng(0)\nfor e in city.loop(range(4), state={'w': w, 'rng': rng}):\n"
        "    w += rng.normal()\n"
    ),
    "a generator that is seeded anew": (
        "for e in city.loop(range(4), state={'w': w}):\n    rng = np.random.default_rng(e)\n    w += rng.normal()\n"
    ),
    "a view of the state": "view = w[:2]\nfor e in city.loop(range(4), state={'w': w}):\n    view += 1\n",
    "a meter that is reset": (
        "class Meter:\n    def __init__(self):\n        self.reset()\n    def reset(self):\n        self.n = 0\n"
        "    def update(self):\n        self.n += 1\nmeter = Meter()\nfor e in city.loop(range(4), state=None):\n"
        "    meter.reset()\n    meter.update()\n"
    ),
    "converted to the same": "for e in city.loop(range(4), state=None):\n    w = np.asarray(w)\n    print(w)\n",
    "entries that each iteration sets": (
        "stats = {'sum': 0}\nfor e in city.loop(range(4), state=None):\n    stats['sum'] = 0\n"
        "    for x in range(e):\n        stats['sum'] += x\n    print(stats)\n"
    ),
    "a meter that a function resets": (
        "class Meter:\n    def reset(self):\n        self.n = 0\n    def update(self):\n        self.n += 1\n"
        "meter = Meter()\ndef count(e):\n    meter.reset()\n    for _ in range(e):\n        meter.update()\n"
        "    return meter.n\nfor e in city.loop(range(4), state=None):\n    print(count(e))\n"
    ),
    "a list that a function empties": (
        "def flush():\n    total = sum(history)\n    del history[:]\n    return total\n"
        "for e in city.loop(range(4), state=None):\n    history.append(e)\n    print(flush())\n"
    ),
    "a cache of a function, left early": (
        "known = {}\ndef square(x):\n    if x in known:\n        return known[x]\n    known[x] = x * x\n"
        "    return known[x]\nfor e in city.loop(range(4), state=None):\n    print(square(e))\n"
    ),
    "a cache of an object": (
        "class Data:\n    def __init__(self):\n        self.known = {}\n    def get(self, x):\n"
        "        if x not in self.known:\n            self.known[x] = x * x\n        return self.known[x]\n"
        "data = Data()\nfor e in city.loop(range(4), state=None):\n    print(data.get(e))\n"
    ),
    "a count that nobody reads": (
        "class Client:\n    def __init__(self):\n        self.calls = 0\n    def get(self, x):\n"
        "        self.calls += 1\n        return x\nclient = Client()\n"
        "for e in city.loop(range(4), state=None):\n    print(client.get(e))\n"
    ),
    "bound in the first pass of an inner loop": (
        "for e in city.loop(range(4), state=None):\n    for i, x in enumerate('abc'):\n        if i % 2 == 0:\n"
        "            shown = x\n        print(shown)\n"
    ),
    "bound again before it is read after the loop": (
        "for e in city.loop(range(4), state={'w': w}):\n    w += 1\n    if w.sum() > 3:\n        shown = w.copy()\n"
        "shown = w\nprint(shown)\n"
    ),
    "a writer": (
        "class SummaryWriter:\n    def __init__(self):\n        self.rows = []\n    def add_scalar(self, *row):\n"
        "        self.rows.append(row)\nwriter = SummaryWriter()\nfor e in city.loop(range(4), state=None):\n"
        "    writer.add_scalar('x', e)\n"
    ),
}


@pytest.mark.parametrize("as_cell", [False, True], ids=["script", "cell"])
@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_a_right_loop_is_left_in_peace(text: str, as_cell: bool, source: LoopSource) -> None:
    source.run(HEAD + text, as_cell=as_cell)
    assert source.messages == []


def test_a_cell_needs_no_reader_of_its_history_because_later_cells_may_read_it(source: LoopSource) -> None:
    text = "rows = []\nfor e in city.loop(range(4), state=None, name=name):\n    rows.append(e)\n"
    source.run(text, name="script")
    assert source.messages == []
    source.run(text, as_cell=True, name="cell")
    assert named(source) == {"rows"}


def test_it_is_said_once_and_not_again_after_a_restart(source: LoopSource) -> None:
    text = (
        "import numpy as np\nw = np.zeros(2)\ntry:\n    for e in city.loop(range(9), state={'w': w}, every=1):\n"
        "        w = w + 1\n        if e == stop:\n            raise KeyError\nexcept KeyError:\n    pass\n"
    )
    source.run(text, stop=5)
    source.run(text, stop=8)
    assert len(source.messages) == 1


def test_a_loop_that_is_begun_again_and_again_is_looked_at_once(source: LoopSource) -> None:
    source.run("n = 0\nfor fold in range(5):\n    for e in city.loop(range(4), state={'x': 1}):\n        n += 1\n")
    assert len(source.messages) == 1


def test_strict_state_refuses_at_the_boundary_and_the_run_can_be_resumed(source: LoopSource) -> None:
    text = (
        "n = 0\nstate = {'n': 0}\nfor e in city.loop(range(4), state=state, every=1, strict_state=strict):\n    BODY\n"
    )
    with pytest.raises(StateRefused, match="`n`"):
        source.run(text.replace("BODY", "n += 1"), strict=True)
    assert source.run(text.replace("BODY", "state['n'] += 1"), strict=True)["state"] == {"n": 4}


def test_without_a_source_only_the_objects_are_looked_at(source: LoopSource) -> None:
    source.run(
        "import numpy as np\nrng = np.random.default_rng(0)\nbatches = city.loop(range(4), state={})\n"
        "while next(batches, None) is not None:\n    rng.normal()\n"
    )
    assert named(source) == {"rng"}


def test_a_loop_that_dies_on_its_first_line_costs_nothing(source: LoopSource) -> None:
    with pytest.raises(ZeroDivisionError):
        source.run("n = 0\nfor e in city.loop(range(4), state={}):\n    1 / 0\n    n += 1\n")
    assert source.messages == []


def test_after_the_first_boundaries_a_loop_pays_nothing(source: LoopSource, monkeypatch: pytest.MonkeyPatch) -> None:
    from qcity_nb.kernel.changes import state_check

    looks: list[float] = []
    look = state_check._Look

    def count(*args: object) -> object:
        looks.append(time.monotonic())
        return look(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(state_check, "_Look", count)
    source.run("n = 0\nfor e in city.loop(range(50), state={}):\n    n = e\n")
    assert len(looks) == state_check.BOUNDARIES


def test_objects_that_raise_when_they_are_looked_at_end_no_loop(
    source: LoopSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> object:
        raise ZeroDivisionError("an object of the user's")

    monkeypatch.setattr(state_check._Look, "problems", broken)
    names = source.run("total = 0\nfor n in city.loop(range(5), {}):\n    total = total + n\n")
    assert names["total"] == 10
    events = source.world.session.sidecar.mailbox.events_since(0)[0].splitlines()
    assert sum(b"was not looked at: ZeroDivisionError" in event for event in events) == 1

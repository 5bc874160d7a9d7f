"""A state that changes its parts in the loop: killed anywhere it ends as if undisturbed, or that was told before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from loop_world import World
from optional import HAS_TORCH, nn, torch

from qcity_nb import crashpoints
from qcity_nb.checkpoint.encode import decode_state, encode_state
from qcity_nb.checkpoint.state import gradients, training
from qcity_nb.checkpoint.state.capture import capture, restore
from qcity_nb.checkpoint.state.freezer import Freezer
from qcity_nb.checkpoint.state.structure import Structure
from qcity_nb.errors import CheckpointError, StateRefused

pytestmark = pytest.mark.skipif(not HAS_TORCH, reason="needs torch: pip install torch==2.13.0")
COUNT = 7
State = dict[str, Any]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    crashpoints.arm(None)


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 70), nn.Tanh(), nn.Linear(70, 70), nn.Tanh(), nn.Linear(70, 2))


def freeze(module: Any) -> Any:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def unfreeze(module: Any) -> list[Any]:
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return list(module.parameters())


def loss(state: State, n: int) -> Any:
    draw = torch.Generator().manual_seed(n)
    x, y = torch.randn(8, 4, generator=draw), torch.randn(8, 2, generator=draw)
    return ((state["model"](x) - y) ** 2).mean()


def step(state: State, n: int) -> None:
    state["optimizer"].zero_grad()
    loss(state, n).backward()
    state["optimizer"].step()


def head_only(make: Any = None, **options: Any) -> State:
    model = freeze(net())
    unfreeze(model[4])
    make = make or torch.optim.SGD
    return {"model": model, "optimizer": make(model[4].parameters(), lr=0.05, **options)}


def add_group(state: State, n: int) -> None:
    """Gradual unfreezing, as fine-tuning does it."""
    if n in (2, 4):
        state["optimizer"].add_param_group({"params": unfreeze(state["model"][4 - n]), "lr": 0.01 * n})
    step(state, n)


def unfreeze_in_one_group(state: State, n: int) -> None:
    if n == 2:
        unfreeze(state["model"])
    step(state, n)


def freeze_later(state: State, n: int) -> None:
    if n == 2:
        freeze(state["model"][0])
    step(state, n)


def remove_group(state: State, n: int) -> None:
    if n == 2:
        for parameter in state["optimizer"].param_groups.pop()["params"]:
            del state["optimizer"].state[parameter]
    step(state, n)


def new_optimizer(state: State, n: int) -> None:
    """A filter over the parameters, with which the optimizer is made again."""
    if n == 2:
        unfreeze(state["model"])
        trained = [each for each in state["model"].parameters() if each.requires_grad]
        state["optimizer"] = torch.optim.SGD(trained, lr=0.02, momentum=0.9)
    step(state, n)


def with_scheduler(state: State, n: int) -> None:
    add_group(state, n)
    scheduler = state["scheduler"]
    if n in (2, 4):
        scheduler.base_lrs.append(0.01 * n)
        state["optimizer"].param_groups[-1]["initial_lr"] = 0.01 * n
    scheduler.step()


def accumulate(state: State, n: int) -> None:
    """A step for each three iterations."""
    (loss(state, n) / 3).backward()
    if n % 3 == 2:
        state["optimizer"].step()
        state["optimizer"].zero_grad()


def accumulate_in_place(state: State, n: int) -> None:
    (loss(state, n) / 3).backward()
    if n % 3 == 2:
        nn.utils.clip_grad_norm_(state["model"].parameters(), 0.1)
        state["optimizer"].step()
        state["optimizer"].zero_grad(set_to_none=False)


def accumulate_scaled(state: State, n: int) -> None:
    scaler = state["scaler"]
    scaler.scale(loss(state, n)).backward()
    if n % 3 == 2:
        scaler.unscale_(state["optimizer"])
        scaler.step(state["optimizer"])
        scaler.update()
        state["optimizer"].zero_grad()


def accumulate_and_grow(state: State, n: int) -> None:
    if n == 2:
        state["optimizer"].add_param_group({"params": unfreeze(state["model"][2])})
    accumulate(state, n)


def two_optimizers(state: State, n: int) -> None:
    (loss(state, n) / 3).backward()
    state["fast"].step()
    state["fast"].zero_grad()
    if n % 3 == 2:
        state["optimizer"].step()
        state["optimizer"].zero_grad()


def by_closure(state: State, n: int) -> None:
    def closure() -> Any:
        state["optimizer"].zero_grad()
        value = loss(state, n)
        value.backward()
        return value

    state["optimizer"].step(closure)


def ema(state: State, n: int) -> None:
    add_group(state, n)
    state["ema"].update_parameters(state["model"])


def plain_tensor(state: State, n: int) -> None:
    draw = torch.Generator().manual_seed(n)
    ((state["w"] - torch.randn(2000, generator=draw)) ** 2).sum().backward()
    if n % 3 == 2:
        state["optimizer"].step()
        state["optimizer"].zero_grad()


def array_grows(state: State, n: int) -> None:
    state["a"] = np.append(state["a"], n)
    step(state, n)


def whole(make: Any = None, **options: Any) -> State:
    model = net()
    return {"model": model, "optimizer": (make or torch.optim.SGD)(model.parameters(), lr=0.05, **options)}


def two_groups(**options: Any) -> State:
    model = net()
    groups: list[dict[str, Any]] = [
        {"params": list(model[0].parameters())},
        {"params": list(model[4].parameters()), "lr": 0.1},
    ]
    return {"model": model, "optimizer": torch.optim.SGD(groups, lr=0.05, **options)}


def scheduled() -> State:
    state = head_only()
    return {**state, "scheduler": torch.optim.lr_scheduler.StepLR(state["optimizer"], 2)}


def fast_and_slow() -> State:
    model = net()
    slow, fast = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2:].parameters(), lr=0.05)
    return {"fast": fast, "optimizer": slow, "model": model}


def tensor_state() -> State:
    w = torch.zeros(2000, requires_grad=True)
    return {"optimizer": torch.optim.SGD([w], lr=0.1), "w": w}


def with_ema() -> State:
    state = head_only()
    return {**state, "ema": torch.optim.swa_utils.AveragedModel(state["model"])}


CASES: dict[str, tuple[Callable[[], State], Callable[[State, int], None]]] = {
    "SGD": (lambda: head_only(momentum=0.9), add_group),
    "Adam": (lambda: head_only(torch.optim.Adam), add_group),
    "AdamW-amsgrad": (lambda: head_only(torch.optim.AdamW, amsgrad=True), add_group),
    "optimizer before model": (lambda: dict(reversed(head_only().items())), add_group),
    "scheduler": (scheduled, with_scheduler),
    "ema": (with_ema, ema),
    "unfrozen in one group": (
        lambda: {"model": (m := freeze(net())), "optimizer": torch.optim.Adam(m.parameters()), "_": unfreeze(m[4])[:0]},
        unfreeze_in_one_group,
    ),
    "frozen later": (lambda: whole(momentum=0.9), freeze_later),
    "group removed": (lambda: two_groups(momentum=0.9), remove_group),
    "optimizer made again": (head_only, new_optimizer),
    "accumulated": (whole, accumulate),
    "accumulated, Adam": (lambda: whole(torch.optim.Adam), accumulate),
    "accumulated, zeroed in place": (whole, accumulate_in_place),
    "accumulated, scaled": (
        lambda: {**whole(), "scaler": torch.amp.GradScaler("cpu", init_scale=8.0)},
        accumulate_scaled,
    ),
    "accumulated and grown": (head_only, accumulate_and_grow),
    "two optimizers": (fast_and_slow, two_optimizers),
    "a plain tensor": (tensor_state, plain_tensor),
    "LBFGS": (lambda: whole(torch.optim.LBFGS), by_closure),
    "an array that grows": (lambda: {**whole(), "a": np.zeros(2000)}, array_grows),
}


def run(world: World, make: Callable[[], State], body: Callable[[State, int], None], *, stop_at: int = COUNT) -> State:
    """A new process: the state as it is at the start, the loop, a death at an iteration."""
    world.start()
    world.cell()
    state = make()
    for n in world.loop(range(COUNT), state):
        if n == stop_at:
            world.freeze()
            break
        body(state, n)
    else:
        world.end()
    return state


def content(state: State) -> list[Any]:
    """Every value that training leaves."""
    names = ("model", "ema", "w", "a")
    values = [state[name] for name in names if name in state]
    flat = [list(each.state_dict().values()) if hasattr(each, "state_dict") else [each] for each in values]
    rates = [[group["lr"] for group in state["optimizer"].param_groups]]
    return [
        [np.asarray(item.detach() if hasattr(item, "detach") else item).tolist() for item in row] for row in flat
    ] + rates


@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere_it_ends_as_if_undisturbed(name: str, tmp_path: Path) -> None:
    make, body = CASES[name]
    undisturbed = content(run(World(tmp_path / "whole"), make, body))
    for at in (2, 3, 5):
        world = World(tmp_path / str(at))
        run(world, make, body, stop_at=at)
        assert content(run(world, make, body)) == undisturbed, f"killed at {at}"


@pytest.mark.parametrize("name", ["SGD", "accumulated", "accumulated and grown", "unfrozen in one group"])
def test_killed_at_every_iteration_it_ends_as_if_undisturbed(name: str, tmp_path: Path) -> None:
    make, body = CASES[name]
    world = World(tmp_path / "killed")
    for at in range(1, COUNT):
        run(world, make, body, stop_at=at)
    assert content(run(world, make, body)) == content(run(World(tmp_path / "whole"), make, body))


def layer_appended(state: State, n: int) -> None:
    if n == 2:
        state["model"].append(nn.Linear(2, 2))
        state["optimizer"].add_param_group({"params": list(state["model"][5].parameters())})
    step(state, n)


def head_replaced(state: State, n: int) -> None:
    if n == 2:
        state["model"][4] = nn.Linear(70, 1)
        state["optimizer"] = torch.optim.SGD(state["model"].parameters(), lr=0.05)
    step(state, n)


def module_added(state: State, n: int) -> None:
    if n == 2:
        state["head"] = nn.Linear(2, 2)
    step(state, n)


def optimizer_added(state: State, n: int) -> None:
    if n == 2:
        state["second"] = torch.optim.Adam(state["model"].parameters())
    step(state, n)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (layer_appended, ["state['model']", "'5.weight'"]),
        (head_replaced, ["state['model']", "'4.weight'"]),
        (module_added, ["state['head']", "Linear"]),
        (optimizer_added, ["state['second']", "Adam"]),
    ],
)
def test_what_a_new_process_cannot_build_is_announced_once_at_the_save(
    body: Callable[[State, int], None], words: list[str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run(world, whole, body, stop_at=5)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("qcity:")]
    assert len(lines) == 1
    assert all(word in lines[0] for word in [*words, "before city.loop"])
    changes = world.session.history.changes
    assert [(each["kind"], each["step"]) for each in changes] == [("state", 3)]
    with pytest.raises(CheckpointError, match=r"state\["):
        run(world, whole, body)


def test_groups_of_parameters_that_are_not_in_state_are_announced_at_the_save(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = nn.Linear(4, 4)

    def body(state: State, n: int) -> None:
        if n == 2:
            state["optimizer"].add_param_group({"params": list(outside.parameters())})
        step(state, n)

    run(world, whole, body, stop_at=5)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("qcity:")]
    assert "state['optimizer'] has groups of parameters that are not in state" in line


def zero_in_place(state: State, n: int) -> None:
    state["optimizer"].zero_grad(set_to_none=False)
    loss(state, n).backward()
    state["optimizer"].step()


def zero_at_the_end(state: State, n: int) -> None:
    loss(state, n).backward()
    state["optimizer"].step()
    state["optimizer"].zero_grad(set_to_none=False)


def clipped(state: State, n: int) -> None:
    state["optimizer"].zero_grad()
    loss(state, n).backward()
    nn.utils.clip_grad_norm_(state["model"].parameters(), 0.1)
    state["optimizer"].step()


@pytest.mark.parametrize("body", [step, zero_in_place, zero_at_the_end, clipped, by_closure])
@pytest.mark.parametrize("make", [whole, lambda: whole(torch.optim.Adam)])
def test_left_over_gradients_mean_no_message_and_no_byte(
    make: Callable[[], State],
    body: Callable[[State, int], None],
    world: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/loop.md's example has them at each boundary."""
    structure = Structure()
    state = make()
    capture(state, structure=structure)
    for n in range(3):
        body(state, n)
        captured = capture(state, structure=structure)
        bare = capture(state)
        assert captured.skeleton == bare.skeleton
        assert captured.size_bytes == bare.size_bytes
    assert structure.take_news() == []
    run(world, make, body)
    assert "qcity:" not in capsys.readouterr().err


def test_a_step_notes_each_gradient_once_and_a_backward_pass_calls_nothing() -> None:
    state = whole()
    gradients.watch(state["optimizer"])
    gradients.watch(state["optimizer"])
    assert len(state["optimizer"]._optimizer_step_post_hooks) == 1
    step(state, 0)
    for parameter in state["model"].parameters():
        assert not parameter._backward_hooks
        assert not parameter._post_accumulate_grad_hooks
    assert gradients.in_flight(state["optimizer"]) == []
    loss(state, 1).backward()
    assert len(gradients.in_flight(state["optimizer"])) == 6


def test_gradients_of_an_interrupted_iteration_are_not_in_the_resumed_one(world: World) -> None:
    """In the same kernel: Ctrl-C between the backward pass and the step."""
    undisturbed = content(run(World(world.path / "whole"), whole, accumulate))
    world.start()
    state = whole()
    world.cell()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the loop is what raises
        for n in world.loop(range(COUNT), state):
            accumulate(state, n)
            if n == 4:
                raise KeyboardInterrupt
    world.end(ok=False)
    world.cell()
    for n in world.loop(range(COUNT), state):
        accumulate(state, n)
    world.end()
    assert content(state) == undisturbed


def test_an_optimizer_that_cannot_tell_its_state_is_refused_by_name(world: World) -> None:
    def body(state: State, n: int) -> None:
        step(state, n)
        state["optimizer"].param_groups.pop()  # and leaves their momentum

    with pytest.raises(StateRefused, match=r"state\['optimizer'\]"):
        run(world, lambda: two_groups(momentum=0.9), body)


def test_a_lazy_module_that_gets_its_shape_in_the_loop_is_restored_without_a_word(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> State:
        torch.manual_seed(0)
        return {"model": nn.LazyLinear(2), "n": 0}

    def body(state: State, n: int) -> None:
        state["model"](torch.ones(1, 3))
        state["n"] = n

    undisturbed = run(World(world.path / "whole"), make, body)
    run(world, make, body, stop_at=4)
    state = run(world, make, body)
    assert torch.equal(state["model"].weight, undisturbed["model"].weight)
    assert "qcity:" not in capsys.readouterr().err


def test_a_state_that_only_cloudpickle_writes_grows_and_dies_twice(tmp_path: Path) -> None:
    def make() -> State:
        return {**head_only(momentum=0.9), "rate": lambda n: 0.1 * n}

    world = World(tmp_path / "killed")
    for at in (3, 5):
        run(world, make, add_group, stop_at=at)
    assert content(run(world, make, add_group)) == content(run(World(tmp_path / "whole"), make, add_group))


def test_a_state_that_cannot_be_pickled_before_it_is_restored_grows_and_dies_twice(tmp_path: Path) -> None:
    def make() -> State:
        return {**head_only(momentum=0.9), "source": None}

    world = World(tmp_path / "killed")
    run(world, make, add_group, stop_at=3)
    for at in (5, COUNT):
        state = run(world, lambda: {**make(), "source": (n for n in range(3))}, add_group, stop_at=at)
    assert content(state) == content(run(World(tmp_path / "whole"), make, add_group))


def test_an_optimizer_made_in_the_loop_leaves_no_gradients_in_checkpoints() -> None:
    structure, state = Structure(), head_only()
    capture(state, structure=structure)
    for n in range(5):
        new_optimizer(state, n)
        capture(state, structure=structure)
    assert gradients.in_flight(state["optimizer"]) == []


@pytest.mark.parametrize("lazily", ["gated", "all"])
def test_gradients_in_flight_are_copied_before_the_next_backward_pass(lazily: Any, tmp_path: Path) -> None:
    freezer, structure, state = Freezer(), Structure(), whole()
    capture(state, freezer, structure=structure).release()
    for n in range(2):
        loss(state, n).backward()
        captured = capture(state, freezer, structure=structure, lazily=lazily)
        kept = [parameter.grad.clone() for parameter in state["model"].parameters()]
        for parameter in state["model"].parameters():
            parameter.grad.fill_(77)
        assert captured.buffer is not None
        captured.buffer.copied.wait()
        assert not captured.buffer.is_spoiled
        encoded, objects = encode_state(captured)
        fresh = whole()
        restore(
            fresh, decode_state(encoded, {name: bytes(item) for name, item in objects.items()}.__getitem__), Structure()
        )
        assert all(map(torch.equal, kept, (parameter.grad for parameter in fresh["model"].parameters())))
        for parameter, gradient in zip(state["model"].parameters(), kept, strict=True):
            parameter.grad.copy_(gradient)
        captured.release()
    freezer.close()


def test_the_example_of_the_docs_writes_nothing_beside_its_state(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "loop.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("```python\n")[1:] if "torch.optim.AdamW" in part).split("```")[0]
    written: list[Any] = []

    def describe(*args: Any) -> Any:
        written.append(original(*args))
        return written[-1]

    original = training.describe
    monkeypatch.setattr(training, "describe", describe)
    world.start()
    world.cell()
    up = 'qcity.up(run="torch")'
    assert up in block
    city = SimpleNamespace(loop=world.loop, log=world.log, finish=world.end)
    exec(block.replace(up, "existing"), {"existing": city})
    assert len(written) >= 4
    assert written == [None] * len(written)
    assert "qcity:" not in capsys.readouterr().err

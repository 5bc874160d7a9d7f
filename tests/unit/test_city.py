"""`city.checkpoint`, `city.restore`, `city.finish`: what a notebook asks for between loops."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loop_world import World

from qcity_nb import city as city_module
from qcity_nb import codec, settings
from qcity_nb.checkpoint.retention import Keep
from qcity_nb.city import City
from qcity_nb.errors import LeaseLost, UsageError
from qcity_nb.hosts.detect import detect
from qcity_nb.run.mailbox import Answer
from qcity_nb.run.up_arguments import UpArguments
from qcity_nb.sidecar import start as sidecar


@pytest.fixture
def world(tmp_path: Path) -> World:
    loop_world = World(tmp_path)
    loop_world.start()
    return loop_world


def city_of(world: World, **overrides: object) -> City:
    """A city over the world's newest attempt."""
    mailbox = world.session.sidecar.mailbox
    attempt_settings = settings.load(world.path, overrides, environ={})
    config = sidecar.config_for(attempt_settings, run="r", attempt=mailbox.path.name, host="here")
    city = City(attempt_settings, detect(environ={}), config, mailbox, mailbox.status())
    world.session = city.session
    world.cell()
    return city


@contextmanager
def answering(world: World) -> Iterator[list[str]]:
    """A sidecar that answers each request with the newest checkpoint's number."""
    end = threading.Event()
    asked: list[str] = []
    mailbox = world.session.sidecar.mailbox

    def work() -> None:
        while not end.wait(0.005):
            for file, request in mailbox.requests():
                asked.append(request.op)
                mailbox.answer(file, Answer(id=request.id, ok=True, data={"seq": world.session.seq}))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield asked
    finally:
        end.set()
        thread.join()


def test_restore_fills_in_place_or_gives_a_fresh_object_and_says_what_there_is(world: World) -> None:
    city = city_of(world)
    with pytest.raises(UsageError, match="none yet"):
        city.restore()
    state = {"w": [0]}
    for n in city.loop(range(2), state, every=1, name="one"):
        state["w"].append(n)
    other: dict[str, Any] = {}
    assert city.restore(other) is other
    assert other == {"w": [0, 0, 1]}
    assert city.restore(name="one") == {"w": [0, 0, 1]}
    list(city.loop(range(2), {"x": 1}, name="two"))
    assert city.restore(name="two") == {"x": 1}
    for name in (None, "three"):
        with pytest.raises(UsageError, match="one, two"):
            city.restore(name=name)


def test_checkpoint_outside_loops_saves_and_waits_until_it_is_published(world: World) -> None:
    city = city_of(world)
    city.log(a=1.0)
    with answering(world) as asked:
        assert city.checkpoint() == 1
    assert asked == ["flush"]
    assert [row.key for row in world.rows()] == ["a"]


def test_checkpoint_in_a_loop_happens_at_its_next_boundary_and_is_sent_on(world: World) -> None:
    city = city_of(world)
    seqs = []
    for n in city.loop(range(4), {}, every="1000s"):
        seqs.append(world.session.seq)
        if n == 1:
            city.checkpoint()
    assert seqs == [1, 1, 2, 2]
    assert [request.op for _, request in world.session.sidecar.mailbox.requests()] == ["flush"]


def test_checkpoint_after_break_finishes_the_loop(world: World) -> None:
    city = city_of(world)
    for n in city.loop(range(4), {}, every="1000s"):
        city.log(n=n)
        if n == 2:
            break
    with answering(world):
        city.checkpoint()
    world.start()
    world.cell()
    assert list(world.loop(range(4), {})) == []
    assert len(world.rows()) == 3


def test_checkpoint_in_an_exception_handler_does_not_commit_the_unfinished_iteration(world: World) -> None:
    city = city_of(world)

    def train() -> None:
        for n in city.loop(range(4), {}, every=1):
            city.log(n=n)
            if n == 2:
                raise KeyboardInterrupt

    try:
        train()
    except KeyboardInterrupt:
        with answering(world):
            city.checkpoint()
    world.end(ok=False)
    world.cell()
    assert list(world.loop(range(4), {})) == [2, 3]
    assert len(world.rows()) == 2


def test_finish_commits_what_a_script_left_by_break(world: World) -> None:
    city = city_of(world)
    for n in city.loop(range(4), {}, every="1000s"):
        city.log(n=n)
        break
    with answering(world) as asked:
        city.finish()
    assert asked == ["end"]
    assert len(world.rows()) == 1


def test_calls_of_an_attempt_that_lost_the_run_say_so(world: World) -> None:
    city = city_of(world)
    world.show(state="lost", reason="attempt x holds the run", error="LeaseLost")
    with pytest.raises(LeaseLost, match="attempt x"):
        city.checkpoint()
    with pytest.raises(LeaseLost, match="attempt x"):
        city.log(a=1)
    with pytest.raises(LeaseLost, match="attempt x"):
        city.finish()


def test_a_named_checkpoint_is_named_in_its_manifest_and_sent(world: World) -> None:
    city = city_of(world)
    city.log(a=1.0)
    with answering(world) as asked:
        assert city.checkpoint(name="warm") == 1
        assert world.session.manifest is not None
        assert world.session.manifest.values["name"] == "warm"
        for n in city.loop(range(3), {}, every="1h"):
            if n == 0:
                city.checkpoint(name="in the loop")
                with pytest.raises(UsageError, match="'in the loop' already"):
                    city.checkpoint(name="another")
            if n == 1:
                assert world.session.manifest.values["name"] == "in the loop"
    assert set(asked) == {"flush"}
    world.session.finish_save()
    assert "name" not in world.session.manifest.values


def test_a_name_is_refused_if_it_cannot_be_shown_or_the_record_is_full(world: World) -> None:
    city = city_of(world)
    for name in (" ", "x" * 101, "a\nb"):
        with pytest.raises(UsageError, match="printable"):
            city.checkpoint(name=name)
    world.show(names_left=0)
    with pytest.raises(UsageError, match="as many named checkpoints"):
        city.checkpoint(name="one too many")
    assert world.session.seq == 0


def test_the_session_ends_by_the_setting_or_by_what_is_known_of_the_host(world: World) -> None:
    assert city_of(world).session.deadline_s is None
    city = city_of(world, session_limit="1000d")
    left_s = (city.session.deadline_s or 0.0) - city.session.clock.now_s()
    assert 0 < left_s <= 1000 * 86400


def test_what_is_to_stay_reaches_the_sidecar_and_is_checked_first(world: World) -> None:
    keep_settings = settings.load(world.path, {"keep_last": 5, "keep_every": 10, "keep_best": "fid:min"}, environ={})
    config = sidecar.config_for(keep_settings, run="r", attempt="a", host="here")
    assert config.keep == Keep(last=5, every=10, best="fid", best_mode="min")
    assert codec.loads(sidecar.Config, codec.dumps(config)) == config
    with pytest.raises(UsageError, match="keep_last = 101"):
        city_of(world, keep_last=101)


def test_a_city_that_comes_back_with_the_variables_is_the_present_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    city = city_of(world)
    saved = pickle.dumps(city)
    city._arguments = UpArguments(run="edited", settings={"heartbeat": 1})  # the cell was edited since
    monkeypatch.setattr(city_module, "_city", city)
    assert pickle.loads(saved) is city


def test_a_cell_that_finishes_the_run_inside_its_loop_ends_well(world: World) -> None:
    city = city_of(world)
    with answering(world):
        for n in city.loop(range(5), {"x": [0]}, every=1):
            if n == 2:
                city.finish()
                break
    with pytest.raises(UsageError, match=r"city\.finish\(\) has ended run 'r'.*qcity\.up\(\)"):
        city.log(a=1)
    with pytest.raises(UsageError, match="has ended"):
        city.loop(range(2), None)


@pytest.mark.parametrize("reason", ["succeeded", "stopped", "running"])
def test_an_attempt_that_ended_by_itself_says_so_too(world: World, reason: str) -> None:
    city = city_of(world)
    values = city.loop(range(5), {"x": [0]}, every=1)
    next(values)
    world.show(state="ended", reason=reason)
    for call in (lambda: city.log(a=1), lambda: city.loop(range(2), None), lambda: next(values), city.checkpoint):
        with pytest.raises(UsageError, match=r"has ended \(" + reason + r"\): write `city = qcity\.up\(\)`"):
            call()

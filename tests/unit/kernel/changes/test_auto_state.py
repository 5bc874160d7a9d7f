"""``state="auto"``: which variables a loop takes, and how they come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loop_source import LoopSource
from loop_world import Killed

from qcity_nb.errors import StateRefused, UsageError

HEAD = "import numpy as np, random\nw, history, best, n = np.zeros(3), [], 0, 0\n"
DIE = "    if e == 3 and alive:\n        raise Killed\n"


@pytest.fixture
def source(tmp_path: Path) -> LoopSource:
    return LoopSource(tmp_path)


def resume(source: LoopSource, text: str, **options: Any) -> dict[str, Any]:
    """Run it, killed in the fourth iteration, and once more."""
    with pytest.raises(Killed):
        source.run(HEAD + text, alive=True, Killed=Killed, **options)
    source.world.freeze()
    return source.run(HEAD + text, alive=False, Killed=Killed, **options)


LOOP = "for e in city.loop(range(6), state='auto', every=1):\n"


def test_variables_that_are_bound_anew_come_back(source: LoopSource) -> None:
    names = resume(source, LOOP + "    w = w + e\n    best = max(best, e % 3)\n    n += 1\n" + DIE)
    assert (names["w"].tolist(), names["best"], names["n"]) == ([15.0] * 3, 2, 6)
    assert not source.messages


def test_objects_keep_their_identity(source: LoopSource) -> None:
    names = resume(source, "same = history\n" + LOOP + "    history.append(e)\n    w += e\n" + DIE)
    assert names["same"] is names["history"]
    assert names["history"] == [0, 1, 2, 3, 4, 5]


def test_what_only_some_iterations_bind_comes_back(source: LoopSource) -> None:
    names = resume(source, LOOP + "    if e % 3 > best:\n        best, kept = e % 3, w.copy()\n    w += 1\n" + DIE)
    assert names["kept"].tolist() == [2.0] * 3


def test_what_a_function_changes_comes_back(source: LoopSource) -> None:
    text = "rng = random.Random(0)\ndef note():\n    global n\n    n += 1\n    history.append(rng.random())\n"
    names = resume(source, text + LOOP + "    note()\n" + DIE)
    expected = __import__("random").Random(0)
    assert names["history"] == [expected.random() for _ in range(6)]
    assert names["n"] == 6


def test_attributes_of_an_object_come_back(source: LoopSource) -> None:
    text = (
        "class Fit:\n    def __init__(self):\n        self.best, self.seen = 0, []\n    def run(self):\n"
        "        for e in city.loop(range(6), state='auto', every=1):\n            self.best = max(self.best, e % 4)\n"
        "            self.seen.append(e)\n            if e == 3 and alive:\n                raise Killed\n"
        "fit = Fit()\nfit.run()\n"
    )
    names = resume(source, text)
    assert (names["fit"].best, names["fit"].seen) == (3, [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "def train(best):\n    for e in city.loop(range(3), state='auto'):\n        best += e\ntrain(0)\n",
            "set `best` of",
        ),
        ("numbers = iter(range(9))\n" + LOOP + "    w += next(numbers)\n", "`numbers` is an iterator"),
        (LOOP + "    exec('n = 1')\n", "`exec` may bind any variable"),
        ("exec(\"for e in city.loop([1], state='auto'): pass\")\n", "no source"),
    ],
)
def test_what_cannot_be_known_or_set_is_refused(source: LoopSource, text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        source.run(HEAD + text)


def test_an_array_of_a_function_that_cannot_be_filled_is_refused_at_the_resume(source: LoopSource) -> None:
    text = (
        "def train(w):\n    for e in city.loop(range(6), state='auto', every=1):\n"
        "        w.resize(e + 5, refcheck=False)\n"
        "        if e == 3 and alive:\n            raise Killed\ntrain(w)\n"
    )
    with pytest.raises(StateRefused, match="cannot set `w` of train"):
        resume(source, text)


def test_what_it_saves_is_said_once(source: LoopSource, capsys: pytest.CaptureFixture[str]) -> None:
    resume(source, LOOP + "    w = w + e\n    history.append(e)\n" + DIE)
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "auto" in each]
    assert line.endswith('state="auto": saves `history` and `w`')

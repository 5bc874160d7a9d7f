"""A plain `pip install qcity-nb` changes nothing that Colab's images ship, and adds little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from colab_cases import CASES, PROJECT
from colab_images import DATA, Image, Outcome, Recorded, Unrecorded, images, resolve
from packaging.specifiers import SpecifierSet

IMAGES = {image.name: image for image in images()}
OLDER = {"2026.01-gpu", "2026.04-gpu"}
CURRENT = {"cur-cpu", "cur-gpu", "cur-tpu"}
BUDGET = {name: 16 if name.endswith("tpu") else 10 for name in IMAGES}


def table(outcomes: Iterable[Outcome]) -> str:
    """The README's table, as these outcomes have it."""
    lines = ["", "| image | new | budget | changed | new packages |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        moved = ", ".join(f"{name} {old} → {new}" for name, (old, new) in outcome.changed.items()) or "none"
        names = ", ".join(outcome.added)
        lines.append(f"| {outcome.image} | {len(outcome.added)} | {BUDGET[outcome.image]} | {moved} | {names} |")
    return "\n".join(lines)


def refusals(outcomes: Iterable[Outcome]) -> list[str]:
    """What breaks the promise: images where something preinstalled changes, or where too much is added."""
    found = []
    for outcome in outcomes:
        found += [f"{outcome.image}: changes {name}" for name in outcome.changed]
        if len(outcome.added) > BUDGET[outcome.image]:
            found.append(f"{outcome.image}: adds {len(outcome.added)} packages")
    return found


def outcomes_of(case: str) -> dict[str, Outcome]:
    recorded = Recorded()
    return {name: resolve(image, CASES[case], recorded) for name, image in IMAGES.items()}


def moved(case: str) -> dict[str, set[str]]:
    return {name: set(outcome.changed) for name, outcome in outcomes_of(case).items()}


def test_all_images_are_there() -> None:
    assert len(IMAGES) == 6
    assert all(len(image.installed) > 300 for image in IMAGES.values())
    assert {image.python for image in IMAGES.values()} == {"3.12", "3.13"}


def test_the_package_runs_on_every_image() -> None:
    supported = SpecifierSet(PROJECT["requires-python"])
    assert all(f"{image.python}.0" in supported for image in IMAGES.values())


def test_installing_the_core_changes_nothing_and_stays_within_budget() -> None:
    outcomes = outcomes_of("core").values()
    assert not refusals(outcomes), table(outcomes)
    assert all("papermill" in outcome.added for outcome in outcomes), table(outcomes)


def test_a_planted_huggingface_hub_2_is_refused_on_every_image() -> None:
    changes = moved("core and huggingface_hub>=2")
    assert all("huggingface-hub" in names for names in changes.values())
    refused = refusals(outcomes_of("core and huggingface_hub>=2").values())
    assert {f"{name}: changes huggingface-hub" for name in IMAGES} <= set(refused)
    assert all(moved("huggingface_hub>=2")[name] == {"huggingface-hub"} for name in CURRENT)


def test_planted_ipywidgets_8_moves_exactly_what_pip_moves() -> None:
    three = {"ipywidgets", "jupyterlab-widgets", "widgetsnbextension"}
    expected = {name: three | {"parso"} if name in OLDER else three for name in IMAGES}
    assert moved("ipywidgets>=8") == expected


def test_ipykernel_in_the_core_would_move_parso_on_the_older_images() -> None:
    assert moved("core and ipykernel") == {name: {"parso"} if name in OLDER else set() for name in IMAGES}


def test_a_budget_that_is_overrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGET, "cur-gpu", 2)
    assert [line for line in refusals(outcomes_of("core").values()) if "adds" in line]


class WithTomorrow(Recorded):
    """The recorded index, and a certifi newer than any image's."""

    def versions(self, name: str, python: str) -> Sequence[str]:
        listed = super().versions(name, python)
        return ["2027.1.1", *listed] if name == "certifi" else listed

    def requires(self, name: str, version: str, python: str) -> Sequence[str]:
        return [] if (name, version) == ("certifi", "2027.1.1") else super().requires(name, version, python)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_a_newer_certifi_is_not_pulled_in(image: Image) -> None:
    """databricks-sdk 0.157 and newer ask for a certifi that was not yet there when this was recorded."""
    tomorrow = WithTomorrow()
    assert not resolve(image, CASES["core"], tomorrow).changed
    assert set(resolve(image, CASES["core, any databricks-sdk"], tomorrow).changed) == {"certifi"}


def test_what_is_not_recorded_is_said() -> None:
    with pytest.raises(Unrecorded, match=r"no-such-distribution .* run tests/data/colab/record\.py"):
        resolve(IMAGES["cur-cpu"], ["no-such-distribution"], Recorded())


def test_the_record_says_when_it_was_made() -> None:
    assert Recorded().recorded_on
    assert (DATA / "metadata.json").stat().st_size < 1_000_000

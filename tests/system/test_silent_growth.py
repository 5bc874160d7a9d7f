"""Fine-tuning and accumulation as a new user writes them: killed, they end as if undisturbed, or it was told before."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from optional import HAS_TORCH
from scripted_run import Script, eventually

pytestmark = [
    pytest.mark.skipif(not HAS_TORCH, reason="needs torch: pip install torch==2.13.0"),
    pytest.mark.timeout(180),
]

HEAD = """
import sys, time, hashlib
from pathlib import Path
import torch
from torch import nn
import qcity_nb as qcity

store, tracking, count, pause_s, executed = sys.argv[1:6]
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 1))
x, y = torch.randn(64, 8), torch.randn(64, 1)
"""

TAIL = """
    with Path(executed).open("a") as file:
        file.write(f"{epoch}\\n")
    time.sleep(float(pause_s))
city.finish()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("weights", hashlib.sha256(weights).hexdigest(), flush=True)
"""

FINE_TUNING = (
    HEAD
    + """
for parameter in model[0].parameters():
    parameter.requires_grad = False
optimizer = torch.optim.Adam(model[2].parameters(), lr=0.01)

city = qcity.up(run="train", store=store, tracking=tracking)
for epoch in city.loop(range(int(count)), state={"model": model, "optimizer": optimizer}, every=1):
    if epoch == 4:  # gradual unfreezing
        for parameter in model[0].parameters():
            parameter.requires_grad = True
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.001})
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
"""
    + TAIL
)

ACCUMULATION = (
    HEAD
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

city = qcity.up(run="train", store=store, tracking=tracking)
for epoch in city.loop(range(int(count)), state={"model": model, "optimizer": optimizer}, every=1):
    at = epoch * 5 % 60
    loss = ((model(x[at:at + 5]) - y[at:at + 5]) ** 2).mean() / 4
    loss.backward()
    if (epoch + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""
    + TAIL
)

NEW_LAYER = (
    HEAD
    + """
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

city = qcity.up(run="train", store=store, tracking=tracking)
for epoch in city.loop(range(int(count)), state={"model": model, "optimizer": optimizer}, every=1):
    if epoch == 4:
        model.append(nn.Linear(1, 1))
        optimizer.add_param_group({"params": model[3].parameters()})
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
"""
    + TAIL
)


def weights(script: Script) -> str:
    text = re.search(r"^weights (\w+)$", script.output, re.MULTILINE)
    assert text, script.output
    return text[1]


def finished(script: Script) -> Script:
    assert script.wait(within_s=90) == 0, script.output
    return script


def kill_after(script: Script, iterations: int) -> None:
    executed = script.folder / "executed"
    eventually(lambda: executed.exists() and len(executed.read_text().split()) >= iterations, what="the iterations")
    assert script.process is not None
    script.process.kill()
    script.process.wait(10)


@pytest.mark.parametrize(
    ("source", "kills"), [(FINE_TUNING, (6,)), (ACCUMULATION, (6,))], ids=["fine-tuning", "accumulation"]
)
def test_killed_it_ends_with_the_weights_of_the_undisturbed_run(
    source: str, kills: tuple[int, ...], tmp_path: Path
) -> None:
    whole = Script(tmp_path / "whole", tmp_path / "store-1", count=16, pause_s=0, source=source).start()
    killed = Script(tmp_path / "killed", tmp_path / "store-2", count=16, pause_s=0.1, source=source)
    for iterations in kills:
        kill_after(killed.start(), iterations)
    assert weights(finished(killed.start())) == weights(finished(whole))
    assert "qcity: state" not in killed.output


def test_a_layer_that_appears_is_announced_before_the_death_and_its_resume_fails_by_name(tmp_path: Path) -> None:
    script = Script(tmp_path / "killed", tmp_path / "store", count=16, pause_s=0.1, source=NEW_LAYER)
    kill_after(script.start(), 7)
    assert "state['model'] has other layers than when the loop began ('3.weight', '3.bias')" in script.output
    assert script.output.count("qcity: state") == 1
    assert script.start().wait(within_s=90) != 0
    assert "state['model'] does not fit the checkpoint" in script.output

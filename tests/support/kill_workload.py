"""A seeded training loop as a plain script, for the tests that kill it: what it computes is a function of its seed.

It leaves two things outside of its host's directories: one line for each iteration begun and ended, and at the end a
digest of everything that it came to.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

import qcity_nb as qcity
from qcity_nb.sidecar import start as sidecar

ITERATIONS = 12


def note(line: str) -> None:
    """One write call without fsync: a killed process loses none of it, the machine lives on."""
    fd = os.open(os.environ["KILL_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def numpy_state() -> tuple[dict[str, Any], Any]:
    """A linear model under Adam; noise from the state's own generator and from the global ones."""
    own = np.random.default_rng(3)
    features, target = own.normal(size=(64, 16)), own.normal(size=(64, 4))
    state: dict[str, Any] = {
        "w": own.normal(size=(16, 4)),
        "m": np.zeros((16, 4)),
        "v": np.zeros((16, 4)),
        "t": 0,
        "rng": own,
        "seen": [],
    }

    def step() -> float:
        state["t"] += 1
        dropped = features * (state["rng"].random(features.shape) > 0.1)
        error = dropped @ state["w"] - target + np.random.normal(scale=0.01, size=target.shape)
        gradient = dropped.T @ error / len(features)
        state["m"] = 0.9 * state["m"] + 0.1 * gradient
        state["v"] = 0.99 * state["v"] + 0.01 * gradient**2
        state["w"] -= 0.05 * state["m"] / (np.sqrt(state["v"]) + 1e-8) * (1 + 0.1 * random.random())
        loss = float((error**2).mean())
        state["seen"].append(loss)
        return loss

    return state, step


def torch_state() -> tuple[dict[str, Any], Any]:
    """The same idea in torch: a module with dropout, an Adam optimizer, the global generator of torch."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(11)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    features, target = torch.randn(64, 16), torch.randn(64, 4)

    def step() -> float:
        optimizer.zero_grad()
        noise = torch.from_numpy(np.random.normal(scale=0.01, size=(64, 4))).float()
        loss = ((model(features) - target + noise) ** 2).mean() * (1 + 0.1 * random.random())
        loss.backward()
        optimizer.step()
        return float(loss)

    return {"model": model, "optimizer": optimizer}, step


def digest(state: dict[str, Any]) -> str:
    """Everything that the training came to, bit for bit."""
    whole = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                whole.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif hasattr(value, "state_dict"):
            add(value.state_dict())
        elif isinstance(value, np.random.Generator):
            add(value.bit_generator.state)
        elif hasattr(value, "detach"):
            whole.update(value.detach().numpy().tobytes())
        elif isinstance(value, np.ndarray):
            whole.update(value.tobytes())
        else:
            whole.update(repr(value).encode())

    add(state)
    return whole.hexdigest()


def come_to(state: dict[str, Any], draws: list[Any]) -> None:
    """Leave the digest and the generators' next draws; whole, or not at all."""
    final = Path(os.environ["KILL_FINAL"])
    draft = final.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"weights": digest(state), "draws": draws}))
    draft.replace(final)


def main() -> None:
    """Train, and leave the digest."""
    if node := os.environ.get("KILL_NODE"):
        # Another machine, as far as anybody can tell: its silence has to be waited for.
        sidecar.node_name = lambda: node
    is_torch = bool(os.environ.get("KILL_TORCH"))
    note("try 0")
    random.seed(5)
    np.random.seed(6)
    state, step = torch_state() if is_torch else numpy_state()
    city = qcity.up(run="train", params={"lr": 0.05, "kind": "torch" if is_torch else "numpy"})
    city.log(begun=1.0)
    for i in city.loop(range(ITERATIONS), state=state, every=int(os.environ.get("KILL_EVERY") or 1)):
        note(f"start {i}")
        loss = step()
        city.log(loss=loss, third=float(i // 3))
        city.log(third=float(i // 3))  # the same again, on purpose: two rows
        time.sleep(0.06)
        note(f"done {i}")
    city.log(ended=2.0)
    draws: list[Any] = [random.random(), float(np.random.random())]
    if is_torch:
        import torch

        draws.append(float(torch.rand(1)))
    come_to(state, draws)
    city.finish()


if __name__ == "__main__":
    main()

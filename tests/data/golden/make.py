"""Makes a golden checkpoint of the version that runs it: python tests/data/golden/make.py tests/data/golden/pack-3

Made and committed once for each format, and never again: later versions must read what this one wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def state() -> dict[str, Any]:
    """What the checkpoint holds, as a formula."""
    import collections

    import numpy as np
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.Linear(40, 30))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.5)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) * 0.25 + number)
            optimizer.state[parameter] = {
                "step": torch.tensor(3.0),
                "exp_avg": parameter.detach().clone() / 2,
                "exp_avg_sq": parameter.detach().clone() ** 2,
            }
    long = np.arange(300_000, dtype="f4")  # more than one slice
    return {
        "net": net,
        "optimizer": optimizer,
        "long": long,
        "view": long[10:2000:3],
        "fortran": np.asfortranarray(np.arange(3000, dtype=">i4").reshape(50, 60)),
        "record": np.zeros(5, dtype=[("a", "i2"), ("b", "f8")]),
        "half": torch.arange(5000).to(torch.bfloat16),
        "eighth": (torch.arange(5000) % 60).to(torch.float8_e4m3fn),
        "rng": np.random.default_rng(11),
        "order": collections.OrderedDict(b=1, a=(2, None, "z")),
        "text": "Grüße" * 2000,
    }


if __name__ == "__main__":
    from qcity_nb.checkpoint import save

    save(Path(sys.argv[1]), state(), step=17)

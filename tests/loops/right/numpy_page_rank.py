# Result: rank
import numpy as np

links = {0: [1, 2], 1: [2], 2: [0], 3: [2, 0], 4: [3, 1]}
size = len(links)
transition = np.zeros((size, size))
for source, targets in links.items():
    transition[targets, source] = 1 / len(targets)
rank = np.full(size, 1 / size)
damping = 0.85
scratch = np.empty(size)
for _ in city.loop(range(60), state={"rank": rank}):
    np.dot(transition, rank, out=scratch)
    updated = damping * scratch + (1 - damping) / size
    delta = np.abs(updated - rank).sum()
    np.copyto(rank, updated)
    if delta < 1e-8:
        break

# Result: walk
# Lacks: rng
import numpy as np

rng = np.random.default_rng(1)
walk = np.zeros(2)
for _ in city.loop(range(30), state={"walk": walk}):
    walk += rng.normal(size=2)

# Result: shadow
# Lacks: shadow
import numpy as np

rng = np.random.default_rng(3)
params = {"w": np.ones(3), "b": np.zeros(1)}
shadow = {name: value.copy() for name, value in params.items()}
for step in city.loop(range(12), state={"params": params, "rng": rng}):
    for name in params:
        params[name] += 0.1 * rng.normal(size=params[name].shape)
        shadow[name] = 0.9 * shadow[name] + 0.1 * params[name]

# Result: (chain["samples"][100:], chain["accepted"])
import numpy as np


def log_density(x):
    return -0.5 * x**2 + np.log1p(0.5 * np.sin(3 * x))


generator = np.random.default_rng(2024)
chain = {"x": 0.0, "samples": [], "accepted": 0}
for _ in city.loop(range(200), state={"chain": chain, "generator": generator}):
    proposal = chain["x"] + generator.normal(scale=0.8)
    if np.log(generator.random()) < log_density(proposal) - log_density(chain["x"]):
        chain["x"] = proposal
        chain["accepted"] += 1
    chain["samples"].append(chain["x"])
kept = np.array(chain["samples"][100:])
print(kept.mean(), kept.std())

# Result: (inside, estimates)
import numpy as np

np.random.seed(5)
batch = 500
inside = np.zeros(1, dtype=np.int64)
estimates = np.full(20, np.nan)
for trial in city.loop(range(20), state=[inside, estimates]):
    xy = np.random.uniform(-1, 1, size=(batch, 2))
    hits = ((xy**2).sum(axis=1) <= 1).sum()
    inside += hits
    total = batch * (trial + 1)
    estimates[trial] = 4 * inside[0] / total
error = abs(estimates[-1] - np.pi)
print(f"pi is {estimates[-1]:.3f}, off by {error:.3f}")

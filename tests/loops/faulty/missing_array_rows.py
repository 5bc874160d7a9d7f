# Result: estimates
# Lacks: estimates
import numpy as np

np.random.seed(0)
estimates = np.zeros(10)
for trial in city.loop(range(10), state=None):
    sample = np.random.exponential(2.0, size=50)
    estimates[trial] = sample.mean()
print(estimates.mean(), estimates.std())

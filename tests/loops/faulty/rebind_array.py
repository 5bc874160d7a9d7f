# Result: w
# Lacks: w
import numpy as np

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 3))
y = X @ np.array([1.0, 2.0, 3.0])
w = np.zeros(3)
for _ in city.loop(range(12), state={"w": w}):
    gradient = X.T @ (X @ w - y) / len(y)
    w = w - 0.1 * gradient

# Result: (w, costs)
import numpy as np

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3))
y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=40)
w = np.zeros(3)
alpha = 0.1
costs = []
for i in city.loop(range(30), state={"w": w, "costs": costs}):
    residual = X @ w - y
    cost = (residual @ residual) / (2 * len(y))
    w -= alpha * (X.T @ residual) / len(y)
    costs.append(cost)
    if i % 10 == 0:
        print(f"iteration {i}: cost {cost:.4f}")

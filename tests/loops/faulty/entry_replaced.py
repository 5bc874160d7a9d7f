# Result: params
# Lacks: params
import numpy as np

params = {"W": np.ones((2, 2)), "b": np.zeros(2)}
x = np.array([[1.0, 2.0], [0.0, 1.0]])
for step in city.loop(range(10), state={"W": params["W"], "b": params["b"]}):
    out = x @ params["W"] + params["b"]
    params["W"] = params["W"] - 0.05 * x.T @ out
    params["b"] = params["b"] - 0.05 * out.sum(axis=0)

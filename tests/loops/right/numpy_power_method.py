# Result: (state["vector"], state["values"])
import numpy as np

A = np.random.default_rng(9).normal(size=(10, 10))
A = A @ A.T
state = {"vector": np.ones(10) / np.sqrt(10), "values": []}


def rayleigh(matrix, vector):
    return float(vector @ matrix @ vector)


def solve(matrix, state, limit):
    for k in city.loop(range(limit), state):
        previous = rayleigh(matrix, state["vector"])
        product = matrix @ state["vector"]
        state["vector"] = product / np.linalg.norm(product)
        value = rayleigh(matrix, state["vector"])
        state["values"].append(value)
        if abs(value - previous) < 1e-6 * abs(value):
            return k
    return limit


print("iterations:", solve(A, state, 50))

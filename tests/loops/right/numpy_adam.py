# Result: state
import numpy as np


def rosenbrock_gradient(p):
    x, y = p
    return np.array([-2 * (1 - x) - 40 * x * (y - x * x), 20 * (y - x * x)])


beta1, beta2, eta, eps = 0.9, 0.99, 0.05, 1e-8
state = {"theta": np.array([-1.0, 1.5]), "m": np.zeros(2), "v": np.zeros(2)}
for t in city.loop(range(1, 31), state=state):
    g = rosenbrock_gradient(state["theta"])
    state["m"] = beta1 * state["m"] + (1 - beta1) * g
    state["v"] = beta2 * state["v"] + (1 - beta2) * g * g
    m_hat = state["m"] / (1 - beta1**t)
    v_hat = state["v"] / (1 - beta2**t)
    state["theta"] = state["theta"] - eta * m_hat / (np.sqrt(v_hat) + eps)

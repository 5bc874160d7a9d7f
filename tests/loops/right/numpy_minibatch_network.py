# Result: (params, losses)
import numpy as np


def forward(x, p):
    hidden = np.maximum(x @ p["W1"] + p["b1"], 0)
    return hidden, 1 / (1 + np.exp(-(hidden @ p["W2"] + p["b2"])))


def gradients(x, y, p):
    hidden, out = forward(x, p)
    delta = (out - y) / len(x)
    back = (delta @ p["W2"].T) * (hidden > 0)
    return {"W2": hidden.T @ delta, "b2": delta.sum(axis=0), "W1": x.T @ back, "b1": back.sum(axis=0)}


np.random.seed(1)
data = np.random.randn(64, 2)
target = (data.prod(axis=1, keepdims=True) > 0).astype(float)
params = {
    "W1": np.random.randn(2, 8) * 0.5,
    "b1": np.zeros(8),
    "W2": np.random.randn(8, 1) * 0.5,
    "b2": np.zeros(1),
}
losses = []
for epoch in city.loop(range(10), state={"params": params, "losses": losses}):
    shuffled = np.random.permutation(len(data))
    for batch in np.array_split(shuffled, 4):
        for name, gradient in gradients(data[batch], target[batch], params).items():
            params[name] = params[name] - 0.5 * gradient
    _, probability = forward(data, params)
    losses.append(-np.mean(np.where(target > 0, np.log(probability), np.log(1 - probability))))

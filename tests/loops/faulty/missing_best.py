# Result: best_loss, best_epoch
# Lacks: best_loss, best_epoch
import numpy as np

rng = np.random.default_rng(2)
w = np.array([4.0, -3.0])
best_loss, best_epoch = float("inf"), -1
for epoch in city.loop(range(12), state={"w": w, "rng": rng}):
    w += 0.1 * w + rng.normal(scale=0.2, size=2)
    loss = float(w @ w)
    if loss < best_loss:
        best_loss, best_epoch = loss, epoch
print(f"best {best_loss:.3f} in epoch {best_epoch}")

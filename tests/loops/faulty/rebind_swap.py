# Result: current.tolist()
# Lacks: current | following
import numpy as np

current = np.zeros(21)
current[10] = 1.0
following = np.empty_like(current)
for step in city.loop(range(11), state={"current": current, "following": following}):
    following[:] = 0.5 * (np.roll(current, 1) + np.roll(current, -1))
    current, following = following, current

# Result: round(state["x"], 9), round(state["v"], 9)
# Lacks: state
import math


def advance(state, dt):
    v = state["v"] - dt * math.sin(state["x"])
    return dict(x=state["x"] + dt * v, v=v)


state = {"x": 1.0, "v": 0.0}
for tick in city.loop(range(40), state, name="pendulum"):
    state = advance(state, 0.1)

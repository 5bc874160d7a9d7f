# Result: state
# Lacks: state
state = {"count": 0, "total": 0.0}
for value in city.loop([2.5, 1.0, 4.0, 3.5, 0.5, 6.0], state=state):
    state = {"count": state["count"] + 1, "total": state["total"] + value}

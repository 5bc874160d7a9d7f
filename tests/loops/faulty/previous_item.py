# Result: steps
# Lacks: previous
previous = None
steps = []
for value in city.loop([3, 8, 2, 9, 9, 1], state={"steps": steps}):
    if previous is not None:
        steps.append(value - previous)
    previous = value

# Result: changes
# Lacks: baseline
readings = [20.5, 21.0, 19.5, 22.0, 23.5, 20.0]
changes = []
baseline = 0.0
for i, reading in city.loop(list(enumerate(readings)), state={"changes": changes}):
    if i == 0:
        baseline = reading
    else:
        changes.append(reading - baseline)

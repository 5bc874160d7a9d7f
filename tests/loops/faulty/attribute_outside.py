# Result: tracker.best, tracker.log
# Lacks: tracker


class Tracker:
    best = float("inf")

    def __init__(self):
        self.log = []


tracker = Tracker()
x = {"value": 4.0}
for step in city.loop(range(12), state=x):
    x["value"] = x["value"] * 0.7 - 0.1
    if abs(x["value"]) < tracker.best:
        tracker.best = abs(x["value"])
        tracker.log = tracker.log + [step]

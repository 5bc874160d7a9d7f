# Result: metrics
# Lacks: metrics
from collections import defaultdict

metrics = defaultdict(list)
weights = {"w": 5.0}
for epoch in city.loop(range(9), state=weights):
    weights["w"] -= 0.2 * weights["w"]
    metrics["loss"].append(weights["w"] ** 2)
    metrics["size"].append(abs(weights["w"]))
summary = {name: sum(values) / len(values) for name, values in metrics.items()}
print(summary)

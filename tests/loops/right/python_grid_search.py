# Result: (results, best)
import itertools

grid = {"depth": [1, 2, 3], "rate": [0.1, 0.5], "kind": ["a", "b"]}
combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def evaluate(depth, rate, kind):
    score = 0.0
    for level in range(depth):
        score += rate / (level + 1)
    return score * (1.1 if kind == "b" else 1.0)


results = []
best = {"score": -1.0, "config": None}
for config in city.loop(combinations, state={"results": results, "best": best}):
    score = evaluate(**config)
    results.append({**config, "score": score})
    if score > best["score"]:
        best["score"], best["config"] = score, config
    print(len(results), config, f"{score:.3f}")

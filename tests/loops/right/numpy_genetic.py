# Result: (evolution["population"], evolution["champions"])
import numpy as np

rng = np.random.default_rng(11)
goal = rng.integers(0, 2, size=24)
evolution = {"population": rng.integers(0, 2, size=(12, 24)), "champions": [], "rng": rng}


def fitness(individuals):
    return (individuals == goal).sum(axis=1)


for generation in city.loop(range(15), state=evolution):
    population = evolution["population"]
    score = fitness(population)
    ranked = population[np.argsort(-score, kind="stable")]
    parents = ranked[:4]
    evolution["champions"].append(int(score.max()))
    children = []
    for _ in range(len(population) - 2):
        mother, father = parents[rng.choice(4, 2, replace=False)]
        child = np.where(rng.random(24) < 0.5, mother, father)
        flip = rng.random(24) < 0.03
        child[flip] = 1 - child[flip]
        children.append(child)
    evolution["population"] = np.vstack([ranked[:2], *children])

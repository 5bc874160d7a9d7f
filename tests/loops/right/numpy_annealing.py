# Result: (search.tour, search.best, round(search.best_length, 9))
from dataclasses import dataclass, field

import numpy as np

np.random.seed(3)
cities = np.random.rand(9, 2)


@dataclass
class Search:
    tour: list
    temperature: float = 1.0
    best: list = field(default_factory=list)
    best_length: float = np.inf


def length(tour):
    path = cities[tour + tour[:1]]
    return np.sqrt((np.diff(path, axis=0) ** 2).sum(axis=1)).sum()


search = Search(tour=list(range(9)))
for step in city.loop(range(120), state=search):
    a, b = sorted(np.random.choice(9, 2, replace=False))
    candidate = search.tour[:a] + search.tour[a : b + 1][::-1] + search.tour[b + 1 :]
    change = length(candidate) - length(search.tour)
    if change < 0 or np.random.rand() < np.exp(-change / search.temperature):
        search.tour = candidate
    if (current := length(search.tour)) < search.best_length:
        search.best, search.best_length = list(search.tour), current
    search.temperature *= 0.97

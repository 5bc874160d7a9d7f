# Result: answer
# Lacks: best
import random


def search(tries):
    best = None
    for n in city.loop(range(tries), state=None, name="search"):
        candidate = random.uniform(-2, 2)
        value = (candidate**2 - 1) ** 2 + 0.1 * n
        if best is None or value < best[0]:
            best = (value, candidate, n)
    return best


random.seed(6)
answer = search(20)

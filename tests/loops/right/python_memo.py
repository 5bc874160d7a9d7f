# Result: lengths
from functools import lru_cache

known = {}


@lru_cache(maxsize=None)
def is_even(n):
    return n % 2 == 0


def chain_length(n):
    if n == 1:
        return 1
    if n not in known:
        known[n] = 1 + chain_length(n // 2 if is_even(n) else 3 * n + 1)
    return known[n]


lengths = {}
for n in city.loop(range(1, 30), state=lengths):
    lengths[n] = chain_length(n)
print(max(lengths, key=lengths.get))

# Result: (state["primes"], state["gaps"])
import logging

logger = logging.getLogger("primes")
state = {"primes": [2], "gaps": {}}


def is_prime(n, primes):
    return all(n % p for p in primes if p * p <= n)


for candidate in city.loop(range(3, 120, 2), state=state):
    if not is_prime(candidate, state["primes"]):
        continue
    gap = candidate - state["primes"][-1]
    state["gaps"].setdefault(gap, candidate)
    state["primes"].append(candidate)
    logger.info("prime %d, gap %d", candidate, gap)

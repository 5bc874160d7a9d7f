# Result: log
# Lacks: log
log = []
state = {"n": 27}


def record(message):
    log.append(message)


def collatz(n):
    record(f"at {n}")
    return n // 2 if n % 2 == 0 else 3 * n + 1


for _ in city.loop(range(14), state=state):
    state["n"] = collatz(state["n"])
print("\n".join(log))

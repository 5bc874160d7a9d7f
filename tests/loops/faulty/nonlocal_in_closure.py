# Result: numbers
# Lacks: calls | limited
numbers = []


def make_limiter(limit):
    calls = 0

    def limited(value):
        nonlocal calls
        calls += 1
        return value if calls <= limit else 0

    return limited


limited = make_limiter(6)
for n in city.loop(range(10), state={"numbers": numbers}):
    numbers.append(limited(n))

# Result: sequence
# Lacks: a | b
a, b = 0, 1
sequence = []
for _ in city.loop(range(20), state={"sequence": sequence}):
    sequence.append(a)
    a, b = b, a + b

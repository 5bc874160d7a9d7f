# Result: outputs
# Lacks: total
total = 0
outputs = []


def add(value):
    global total
    total += value
    return total


for n in city.loop(range(1, 11), state={"outputs": outputs}):
    outputs.append(add(n))

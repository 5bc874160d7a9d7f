# Result: model["w"]
# Lacks: examples
import random

random.seed(9)
examples = [(n / 10, n / 5 + 1) for n in range(10)]
model = {"w": 0.0, "b": 0.0}
for epoch in city.loop(range(8), state=model):
    random.shuffle(examples)
    for x, y in examples:
        error = model["w"] * x + model["b"] - y
        model["w"] -= 0.1 * error * x
        model["b"] -= 0.1 * error

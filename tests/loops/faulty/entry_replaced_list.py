# Result: layers
# Lacks: layers
import numpy as np

rng = np.random.default_rng(6)
layers = [rng.normal(size=(3, 3)) for _ in range(3)]
for step in city.loop(range(8), state={"first": layers[0], "second": layers[1], "third": layers[2]}):
    for i, layer in enumerate(layers):
        layers[i] = layer * 0.9 + 0.01 * step

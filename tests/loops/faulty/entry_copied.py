# Result: w, v
# Lacks: v
w, v = [4.0, -2.0], 0.0
for step in city.loop(range(10), state={"w": w, "v": v}):
    v = 0.8 * v + w[0]
    w[0] -= 0.1 * v
    w[1] += 0.01 * v

# Result: curve
# Lacks: smooth
curve = []
smooth = 10.0
for step in city.loop(range(15), state=curve):
    loss = 10.0 / (step + 1)
    smooth = 0.9 * smooth + 0.1 * loss
    curve.append(round(smooth, 6))

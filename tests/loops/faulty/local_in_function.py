# Result: train(10)
# Lacks: momentum


def train(steps):
    w = [5.0]
    momentum = 0.0
    for _ in city.loop(range(steps), state={"w": w}, name="train"):
        gradient = 2 * w[0]
        momentum = 0.9 * momentum + gradient
        w[0] -= 0.05 * momentum
    return w[0]

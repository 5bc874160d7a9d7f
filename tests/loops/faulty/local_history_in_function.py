# Result: simulate(20)
# Lacks: path, energy


def simulate(steps):
    particle = {"x": 1.0, "v": 0.0}
    path, energy = [], []
    for _ in city.loop(range(steps), state=particle, name="simulate"):
        particle["v"] -= 0.1 * particle["x"]
        particle["x"] += 0.1 * particle["v"]
        path.append(round(particle["x"], 6))
        energy.append(round(particle["x"] ** 2 + particle["v"] ** 2, 6))
    return path, energy

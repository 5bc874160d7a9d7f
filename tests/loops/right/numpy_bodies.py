# Result: (positions, velocities, energies[-1])
import numpy as np

rng = np.random.default_rng(7)
n, dt, soft = 5, 0.01, 0.1
masses = rng.uniform(0.5, 1.5, n)
positions = rng.normal(size=(n, 3))
velocities = 0.1 * rng.normal(size=(n, 3))


def acceleration(position):
    offset = position[None] - position[:, None]
    inverse = ((offset**2).sum(axis=-1) + soft**2) ** -1.5
    return (offset * (masses[None, :, None] * inverse[..., None])).sum(axis=1)


force = acceleration(positions)
energies = []
for step in city.loop(range(60), state={"x": positions, "v": velocities, "a": force, "e": energies}):
    velocities += 0.5 * dt * force
    positions += dt * velocities
    force[...] = acceleration(positions)
    velocities += 0.5 * dt * force
    energies.append(0.5 * (masses[:, None] * velocities**2).sum())

# Result: swarm.best
# Lacks: self | positions, self | best
import numpy as np


class Swarm:
    def __init__(self, n):
        self.rng = np.random.default_rng(0)
        self.positions = self.rng.uniform(-3, 3, size=(n, 2))
        self.best = self.positions[0]

    def move(self):
        pull = self.rng.random((len(self.positions), 1))
        self.positions = (
            self.positions + pull * (self.best - self.positions) + self.rng.normal(0, 0.1, self.positions.shape)
        )
        cost = (self.positions**2).sum(axis=1)
        if cost.min() < (self.best**2).sum():
            self.best = self.positions[cost.argmin()]

    def run(self, rounds):
        for _ in city.loop(range(rounds), state={"positions": self.positions, "best": self.best, "rng": self.rng}):
            self.move()


swarm = Swarm(6)
swarm.run(10)

# Result: solver.errors, solver.damping
# Lacks: self | errors, self | damping


class Solver:
    def __init__(self):
        self.x = [8.0]
        self.damping = 1.0
        self.errors = []

    def solve(self, steps):
        for _ in city.loop(range(steps), state={"x": self.x}, name="solve"):
            error = self.x[0] ** 2 - 2
            self.x[0] -= self.damping * error / (2 * self.x[0])
            self.damping *= 0.9
            self.errors.append(abs(error))


solver = Solver()
solver.solve(8)

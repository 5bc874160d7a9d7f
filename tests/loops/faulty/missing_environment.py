# Result: scores
# Lacks: env


class Env:
    """It becomes harder with each episode."""

    def __init__(self):
        self.level = 1

    def episode(self):
        self.level += 1
        return 10.0 / self.level


env = Env()
scores = []
for episode in city.loop(range(9), state={"scores": scores}):
    scores.append(env.episode())

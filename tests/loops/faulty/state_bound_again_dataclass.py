# Result: run
# Lacks: run
from dataclasses import dataclass, replace


@dataclass
class Run:
    position: float = 0.0
    best: float = 1e9


run = Run()
for step in city.loop(range(10), state=run):
    position = run.position + (3 - run.position) * 0.4
    run = replace(run, position=position, best=min(run.best, abs(3 - position)))

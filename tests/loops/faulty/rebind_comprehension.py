# Result: population
# Lacks: population
import random

random.seed(4)
population = [random.uniform(-1, 1) for _ in range(8)]
for generation in city.loop(range(10), state={"population": population}):
    survivors = sorted(population, key=abs)[:4]
    population = [value + random.gauss(0, 0.05) for value in survivors for _ in range(2)]

# Result: choices
# Lacks: epsilon
import random

random.seed(1)
epsilon = 1.0
choices = []
for episode in city.loop(range(30), state={"choices": choices}):
    explore = random.random() < epsilon
    choices.append("explore" if explore else "exploit")
    epsilon = max(0.05, epsilon * 0.8)

# Result: round(agent.value, 9)
# Lacks: memory
import random


class Memory:
    def __init__(self, capacity):
        self.capacity = capacity
        self.items = []
        self.position = 0

    def push(self, item):
        if len(self.items) < self.capacity:
            self.items.append(item)
        else:
            self.items[self.position] = item
        self.position = (self.position + 1) % self.capacity

    def sample(self, n):
        return random.sample(self.items, min(n, len(self.items)))


class Agent:
    value = 0.0

    def learn(self, rewards):
        self.value += 0.2 * (sum(rewards) / len(rewards) - self.value)


random.seed(5)
memory, agent = Memory(12), Agent()
for episode in city.loop(range(10), state=agent):
    for _ in range(3):
        memory.push(random.gauss(episode, 1))
    agent.learn(memory.sample(8))

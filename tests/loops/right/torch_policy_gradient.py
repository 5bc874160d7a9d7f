# Result: (policy, returns, list(recent))
from collections import deque

import torch
from torch import nn
from torch.distributions import Categorical


class Corridor:
    """An agent has to walk to the right end."""

    def reset(self):
        self.position, self.steps = 2, 0
        return self.observe()

    def observe(self):
        return torch.nn.functional.one_hot(torch.tensor(self.position), 5).float()

    def step(self, action):
        self.position += 1 if action == 1 else -1
        self.steps += 1
        done = self.position in (0, 4) or self.steps >= 8
        return self.observe(), float(self.position == 4), done


torch.manual_seed(0)
env = Corridor()
policy = nn.Linear(5, 2)
optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
returns, recent = [], deque(maxlen=5)
for episode in city.loop(
    range(10), state={"policy": policy, "optimizer": optimizer, "returns": returns, "recent": recent}
):
    observation = env.reset()
    done = False
    log_probs, rewards = [], []
    while not done:
        choice = Categorical(logits=policy(observation))
        action = choice.sample()
        observation, reward, done = env.step(action.item())
        log_probs.append(choice.log_prob(action))
        rewards.append(reward)
    total = sum(rewards)
    loss = -(torch.stack(log_probs) * total).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    returns.append(total)
    recent.append(total)
    if sum(recent) / len(recent) > 0.95 and len(recent) == 5:
        break

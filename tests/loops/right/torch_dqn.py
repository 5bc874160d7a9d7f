# Result: (online, target, agent["epsilon"], len(agent["memory"]), agent["steps"])
import random

import torch
from torch import nn

torch.manual_seed(1)
random.seed(1)
online, target = nn.Linear(2, 2), nn.Linear(2, 2)
target.load_state_dict(online.state_dict())
optimizer = torch.optim.SGD(online.parameters(), lr=0.05)
agent = {"epsilon": 1.0, "memory": [], "steps": 0}


def act(observation, epsilon):
    if random.random() < epsilon:
        return random.randrange(2)
    with torch.no_grad():
        return online(observation).argmax().item()


def learn(transitions):
    before, actions, rewards, after = (torch.stack(part) for part in zip(*transitions, strict=True))
    with torch.no_grad():
        goal = rewards + 0.9 * target(after).max(dim=1).values
    value = online(before).gather(1, actions.unsqueeze(1)).squeeze(1)
    loss = nn.functional.mse_loss(value, goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


for episode in city.loop(range(8), state={"online": online, "target": target, "optimizer": optimizer, "agent": agent}):
    observation = torch.rand(2)
    for _ in range(5):
        action = act(observation, agent["epsilon"])
        following = (observation + torch.tensor([0.1, -0.1]) * (2 * action - 1)).clamp(0, 1)
        reward = following[0] - following[1]
        agent["memory"].append((observation, torch.tensor(action), reward, following))
        observation = following
        agent["steps"] += 1
        if len(agent["memory"]) >= 10:
            learn(random.sample(agent["memory"], 8))
        if agent["steps"] % 12 == 0:
            target.load_state_dict(online.state_dict())
    agent["epsilon"] = max(0.1, agent["epsilon"] * 0.8)

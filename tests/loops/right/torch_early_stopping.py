# Result: (stopper.best, stopper.waited, stopper.weights, trace)
import copy

import torch
from torch import nn


class EarlyStopping:
    def __init__(self, patience):
        self.patience = patience
        self.best = None
        self.waited = 0
        self.weights = None

    def should_stop(self, score, module):
        if self.best is None or score < self.best - 1e-3:
            self.best, self.waited = score, 0
            self.weights = copy.deepcopy(module.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience


torch.manual_seed(7)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
stopper = EarlyStopping(patience=3)
trace = []
points = torch.randn(30, 2)
state = {"model": model, "optimizer": optimizer, "stopper": stopper, "trace": trace}
for epoch in city.loop(range(50), state=state):
    loss = ((model(points).squeeze() - points[:, 0]) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    trace.append(loss.item())
    if stopper.should_stop(loss.item(), model):
        print("stopped at", epoch)
        break

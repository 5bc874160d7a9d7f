# Result: best_weights
# Lacks: best_weights, best
import copy

import torch

torch.manual_seed(3)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1.9, momentum=0.9)
x = torch.randn(20, 3)
best = None
best_weights = None
for epoch in city.loop(range(10), state={"model": model, "optimizer": optimizer}):
    loss = model(x).square().mean()
    if best is None or loss.item() < best:
        best = loss.item()
        best_weights = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.load_state_dict(best_weights)

# Result: averaged
# Lacks: averaged
import copy

import torch

torch.manual_seed(12)
model = torch.nn.Linear(4, 2)
averaged = copy.deepcopy(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
x = torch.randn(16, 4)
for step in city.loop(range(10), state={"model": model, "optimizer": optimizer}):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 0.1)

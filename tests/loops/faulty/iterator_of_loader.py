# Result: model
# Lacks: stream
import torch
from torch.utils.data import DataLoader

torch.manual_seed(14)
loader = DataLoader(torch.randn(40, 2), batch_size=4)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
stream = iter(loader)
for step in city.loop(range(9), state={"model": model, "optimizer": optimizer}):
    batch = next(stream)
    optimizer.zero_grad()
    (model(batch) - 1).square().mean().backward()
    optimizer.step()

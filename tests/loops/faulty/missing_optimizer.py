# Result: model
# Lacks: optimizer
import torch

torch.manual_seed(5)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
x = torch.randn(32, 4)
for epoch in city.loop(range(8), state={"model": model}):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()

# Result: model
# Lacks: learning_rate
import torch

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
x = torch.randn(20, 3)
learning_rate = 0.1
for epoch in city.loop(range(10), state={"model": model, "optimizer": optimizer}):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    learning_rate *= 0.8

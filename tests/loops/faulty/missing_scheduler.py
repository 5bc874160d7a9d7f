# Result: scheduler.last_epoch, model
# Lacks: scheduler
import torch

torch.manual_seed(8)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
x = torch.randn(20, 2)
for epoch in city.loop(range(9), state={"model": model, "optimizer": optimizer}):
    optimizer.zero_grad()
    (model(x) - 2).square().mean().backward()
    optimizer.step()
    scheduler.step()

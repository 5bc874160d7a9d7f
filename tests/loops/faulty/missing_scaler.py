# Result: scaler.get_scale()
# Lacks: scaler
import torch

torch.manual_seed(11)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
x = torch.randn(16, 4)
for epoch in city.loop(range(9), state={"model": model, "optimizer": optimizer}):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

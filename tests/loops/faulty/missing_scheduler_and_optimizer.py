# Result: model
# Lacks: optimizer, warmup
import torch

torch.manual_seed(10)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 8)
x = torch.randn(20, 3)
losses = []
for epoch in city.loop(range(8), state={"model": model, "losses": losses}):
    loss = model(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    warmup.step()
    losses.append(loss.item())

# Result: optimizer.param_groups[0]["lr"], model
# Lacks: lr | bad
import torch

torch.manual_seed(15)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
lr, bad, lowest = 0.5, 0, {"loss": 0.0}
x = torch.randn(12, 2)
for epoch in city.loop(range(10), state={"model": model, "optimizer": optimizer, "lowest": lowest}):
    optimizer.zero_grad()
    loss = (model(x) - 3).square().mean()
    loss.backward()
    optimizer.step()
    if loss.item() > lowest["loss"]:
        bad += 1
    if bad == 2:
        bad, lr = 0, lr / 2
        for group in optimizer.param_groups:
            group["lr"] = lr

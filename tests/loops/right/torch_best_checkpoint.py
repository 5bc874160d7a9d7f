# Result: (best, torch.load("best.pt"), model)
import torch
from torch import nn

torch.manual_seed(6)
x = torch.randn(60, 3)
y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(60, 1)
train_x, valid_x, train_y, valid_y = x[:40], x[40:], y[:40], y[40:]
model = nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.2)
best = {"loss": float("inf"), "epoch": -1}

for epoch in city.loop(range(10), state={"model": model, "optimizer": optimizer, "best": best}):
    model.train()
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(train_x), train_y)
    loss.backward()
    optimizer.step()

    model.eval()
    with torch.no_grad():
        valid_loss = nn.functional.mse_loss(model(valid_x), valid_y).item()
    if valid_loss < best["loss"]:
        best.update(loss=valid_loss, epoch=epoch)
        torch.save(model.state_dict(), "best.pt")

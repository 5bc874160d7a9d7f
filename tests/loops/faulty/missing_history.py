# Result: history
# Lacks: history
import torch

torch.manual_seed(1)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
x = torch.randn(24, 2)
history = []
for epoch in city.loop(range(8), state={"model": model, "optimizer": optimizer}):
    loss = (model(x) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
print("loss by epoch:", [round(each, 3) for each in history])

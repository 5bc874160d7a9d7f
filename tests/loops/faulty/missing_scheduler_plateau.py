# Result: optimizer.param_groups[0]["lr"]
# Lacks: sched
import torch

torch.manual_seed(9)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sched = torch.optim.lr_scheduler.ReduceLROnPlateau(
    optimizer, patience=3, factor=0.1, threshold=10.0, threshold_mode="abs"
)
x = torch.randn(20, 2)
for epoch in city.loop(range(9), state=[model, optimizer]):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    sched.step(loss.item())

# Result: online
# Lacks: target
import torch

torch.manual_seed(13)
online, target = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
target.load_state_dict(online.state_dict())
optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
for step in city.loop(range(12), state={"online": online, "optimizer": optimizer}):
    x = torch.randn(8, 2)
    with torch.no_grad():
        goal = 1 + 0.9 * target(x + 0.1)
    loss = torch.nn.functional.mse_loss(online(x), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 4:
        target.load_state_dict(online.state_dict())

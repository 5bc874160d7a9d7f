# Result: (model, shadow)
import copy

import torch
from torch import nn

torch.manual_seed(5)
model = nn.Linear(6, 1)
shadow = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
inputs = torch.randn(40, 6)
targets = inputs[:, :1] * 2
decay = 0.9


@torch.no_grad()
def update_average(source, average):
    for new, old in zip(source.parameters(), average.parameters(), strict=True):
        old.mul_(decay).add_(new, alpha=1 - decay)


for step in city.loop(range(12), state=[model, shadow, optimizer]):
    pick = torch.randint(0, 40, (10,))
    loss = (model(inputs[pick]) - targets[pick]).abs().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    update_average(model, shadow)
    if step % 4 == 0:
        gap = sum((a - b).abs().sum() for a, b in zip(model.parameters(), shadow.parameters(), strict=True))
        city.log(loss=loss.item(), gap=gap.item())

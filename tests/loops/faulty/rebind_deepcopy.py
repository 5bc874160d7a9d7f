# Result: best
# Lacks: best
import copy

import torch

torch.manual_seed(2)
model = torch.nn.Linear(2, 1)
best = copy.deepcopy(model)
x = torch.randn(16, 2)
y = torch.zeros(16, 1)


def loss_of(module):
    return torch.nn.functional.mse_loss(module(x), y)


for round_number in city.loop(range(12), state={"best": best}):
    model = copy.deepcopy(best)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    if loss_of(model) < loss_of(best):
        best = model

# Result: {name: fold["scores"] for name, fold in folds.items()}
import torch
from torch import nn

torch.manual_seed(19)
x = torch.randn(30, 2)
y = x[:, :1] - x[:, 1:]
parts = torch.arange(30).chunk(3)
folds = {}
for k, held_out in enumerate(parts):
    kept = torch.cat([part for i, part in enumerate(parts) if i != k])
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    fold = {"model": model, "optimizer": optimizer, "scores": []}
    for epoch in city.loop(range(4), state=fold, name=f"fold-{k}"):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[kept]), y[kept]).backward()
        optimizer.step()
        with torch.no_grad():
            fold["scores"].append(nn.functional.mse_loss(model(x[held_out]), y[held_out]).item())
    folds[f"fold {k}"] = fold

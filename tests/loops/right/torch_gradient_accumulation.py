# Result: (model, log)
import torch
from torch import nn

torch.manual_seed(4)
model = nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
micro_batches = [(torch.randn(4, 5), torch.randn(4, 1)) for _ in range(12)]
accumulate = 4
log = []
optimizer.zero_grad()
for i, (x, y) in city.loop(list(enumerate(micro_batches)), state={"m": model, "o": optimizer, "log": log}):
    loss = nn.functional.mse_loss(model(x), y) / accumulate
    loss.backward()
    if (i + 1) % accumulate == 0:
        optimizer.step()
        optimizer.zero_grad()
        log.append(i)

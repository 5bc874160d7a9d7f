# Result: (model, scores)
import torch
from torch import nn


class Accuracy:
    """Counts as metric libraries do: update, compute, reset."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.all = 0

    def update(self, logits, target):
        self.right += (logits.argmax(-1) == target).sum().item()
        self.all += len(target)

    def compute(self):
        return self.right / max(self.all, 1)


class AverageMeter:
    def __init__(self, name):
        self.name = name
        self.reset()

    def reset(self):
        self.value = self.sum = self.count = 0.0

    def update(self, value, n=1):
        self.value = value
        self.sum += value * n
        self.count += n

    @property
    def average(self):
        return self.sum / self.count


torch.manual_seed(12)
x = torch.randn(48, 5)
y = (x[:, 0] > 0).long()
model = nn.Linear(5, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
accuracy = Accuracy()
meter = AverageMeter("loss")
scores = []
for epoch in city.loop(range(6), state={"model": model, "optimizer": optimizer, "scores": scores}):
    meter.reset()
    for xb, yb in zip(x.split(16), y.split(16), strict=True):
        logits = model(xb)
        loss = nn.functional.cross_entropy(logits, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy.update(logits, yb)
        meter.update(loss.item(), len(xb))
    scores.append((accuracy.compute(), meter.average))
    accuracy.reset()

# Result: (net, accuracies)
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    """Computes an example when it is first asked for."""

    def __init__(self, n):
        self.n = n
        self.cache = {}

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i not in self.cache:
            x = torch.tensor([i / self.n, (i % 3) / 3])
            self.cache[i] = (x, (x.sum() > 0.8).long())
        return self.cache[i]


torch.manual_seed(20)
dataset = Squares(30)
net = nn.Linear(2, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, nesterov=True)
accuracies = {}
for epoch in city.loop(range(6), state=dict(net=net, optimizer=optimizer, accuracies=accuracies)):
    loader = DataLoader(dataset, batch_size=10, shuffle=True)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    if epoch % 2 == 1:
        net.eval()
        with torch.inference_mode():
            right = sum((net(x).argmax(1) == y).sum().item() for x, y in loader)
        accuracies[epoch] = right / len(dataset)
        net.train()

# Result: (losses, model)
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(3)
x = torch.linspace(-1, 1, 80).unsqueeze(1)
data = TensorDataset(x, x**3)
train_loader = DataLoader(data, batch_size=20, shuffle=True)
test_loader = DataLoader(data, batch_size=40)
device = "cpu"


def train(model, loader, optimizer):
    model.train()
    total = 0.0
    for inputs, targets in loader:
        inputs, targets = inputs.to(device), targets.to(device)
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def test(model, loader):
    model.eval()
    return sum(nn.functional.mse_loss(model(a), b).item() for a, b in loader) / len(loader)


model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
losses = []
for epoch in city.loop(range(1, 7), {"model": model, "optimizer": optimizer, "losses": losses}, name="train"):
    train_loss = train(model, train_loader, optimizer)
    test_loss = test(model, test_loader)
    losses.append((epoch, train_loss, test_loss))
    city.log(train_loss=train_loss, test_loss=test_loss)
print(f"test loss at the end: {test_loss:.4f}")

# Result: (history, model, optimizer)
import torch
from torch import nn

torch.manual_seed(0)
features = torch.randn(96, 4)
labels = (features.sum(dim=1) > 0).long()
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
criterion = nn.CrossEntropyLoss()
history = {"loss": [], "accuracy": []}

for epoch in city.loop(range(6), state={"model": model, "optimizer": optimizer, "history": history}):
    running_loss = 0.0
    correct = 0
    order = torch.randperm(len(features))
    for start in range(0, len(features), 32):
        batch = order[start : start + 32]
        optimizer.zero_grad()
        logits = model(features[batch])
        loss = criterion(logits, labels[batch])
        loss.backward()
        optimizer.step()
        running_loss += loss.item() * len(batch)
        correct += (logits.argmax(dim=1) == labels[batch]).sum().item()
    history["loss"].append(running_loss / len(features))
    history["accuracy"].append(correct / len(features))
    print(f"epoch {epoch}: loss {history['loss'][-1]:.3f}")
print("last loss of a batch:", loss.item())

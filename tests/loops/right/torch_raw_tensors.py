# Result: (weights, bias)
import torch

generator = torch.Generator().manual_seed(17)
x = torch.rand(50, 3, generator=generator)
y = x @ torch.tensor([2.0, 0.0, -1.0]) + 0.5
weights = torch.zeros(3, requires_grad=True)
bias = torch.zeros(1, requires_grad=True)
learning_rate = 0.3
for t in city.loop(range(15), state={"weights": weights, "bias": bias, "generator": generator}):
    rows = torch.randint(0, 50, (10,), generator=generator)
    prediction = x[rows] @ weights + bias
    loss = (prediction - y[rows]).pow(2).mean()
    loss.backward()
    with torch.no_grad():
        weights -= learning_rate * weights.grad
        bias -= learning_rate * bias.grad
        weights.grad.zero_()
        bias.grad = None

# Result: net
# Lacks: opt
import torch


def train_epoch(net, opt, batches):
    for batch in batches:
        opt.zero_grad()
        (net(batch) - 1).abs().mean().backward()
        opt.step()


torch.manual_seed(6)
net = torch.nn.Linear(3, 1)
opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
batches = torch.randn(4, 8, 3)
for epoch in city.loop(range(6), net):
    train_epoch(net, opt, batches)

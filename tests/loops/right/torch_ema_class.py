# Result: (net, ema.shadow)
import torch
from torch import nn


class Ema:
    def __init__(self, module, decay):
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    def update(self, module):
        for name, p in module.named_parameters():
            self.shadow[name] = self.decay * self.shadow[name] + (1 - self.decay) * p.detach()


torch.manual_seed(8)
net = nn.Linear(3, 2)
optim = torch.optim.SGD(net.parameters(), lr=0.2)
ema = Ema(net, 0.8)
batches = torch.randn(8, 5, 3)
for i in city.loop(range(8), state={"net": net, "optim": optim, "ema": ema}):
    optim.zero_grad()
    out = net(batches[i])
    (out**2).mean().backward()
    optim.step()
    ema.update(net)

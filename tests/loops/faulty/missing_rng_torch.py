# Result: total
# Lacks: noise
import torch

noise = torch.Generator().manual_seed(0)
total = torch.zeros(4)
for _ in city.loop(range(8), state={"total": total}):
    total += torch.randn(4, generator=noise)

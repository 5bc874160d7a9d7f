# Result: (model, scaler.get_scale(), scheduler.get_last_lr())
import torch
from torch import nn

torch.manual_seed(2)
model = nn.Linear(8, 3)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))
everything = dict(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)

for epoch in city.loop(range(8), everything):
    for xb, yb in zip(x.chunk(2), y.chunk(2), strict=True):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(xb), yb)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    scheduler.step()
    city.log(loss=loss.item(), norm=norm.item(), lr=scheduler.get_last_lr()[0])

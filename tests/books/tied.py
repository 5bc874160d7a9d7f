# %%
import numpy as np
import torch
from torch import nn

torch.manual_seed(5)
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


# %%
class Tied(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.mix = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight  # tied
        self.register_buffer("seen", torch.zeros(words))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen += torch.bincount(tokens.flatten(), minlength=len(self.seen))
        mixed, _ = self.mix(self.embed(tokens))
        return self.head(mixed)


model = Tied(300, 64)
print(sum(each.numel() for each in model.parameters()), model.head.weight is model.embed.weight)

# %%
draws = torch.Generator().manual_seed(9)
text = torch.randint(0, 300, (4000,), generator=draws)
for k in range(0, 4000, 3):
    text[k] = text[(k * 7) % 4000]
text = (text + text.roll(1)) % 300
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
weights = model.embed.weight  # one tensor, three names
losses = []


# %%
def train(steps):
    for _ in range(steps):
        at = torch.randint(0, 4000 - 17, (16,), generator=draws)
        batch = torch.stack([text[k : k + 17] for k in at])
        loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())


train(50)
print(f"{losses[0]:.6f} {losses[-1]:.6f}")

# %%
table = weights.detach().numpy()  # the same memory, as numpy sees it
row = weights.data[3]
shadow = {name: each.detach().clone() for name, each in model.named_parameters()}
print(np.shares_memory(table, row.numpy()), f"{float(np.abs(table).sum()):.4f}")

# %%
import qcity_nb as qcity

city = qcity.up()
state = {"model": model, "optimizer": optimizer, "schedule": schedule, "draws": draws, "losses": losses}
for _ in city.loop(range(10), state=state, every=1):
    train(5)
    city.log(loss=losses[-1])
print(f"{losses[-1]:.6f}", model.head.weight is model.embed.weight, optimizer.param_groups[0]["params"][0] is weights)

# %%
with torch.no_grad():
    table[3] *= 0.5  # through numpy: model, view and optimizer see it
    for name, each in model.named_parameters():
        shadow[name].lerp_(each, 0.1)
print(torch.equal(row, model.head.weight[3]), f"{float(row.norm()):.6f}")

# %%
train(50)
model.eval()
with torch.no_grad():
    guesses = model(text[None, :200]).argmax(-1)
guesses[0, :8]

# %%
norms = torch.stack([each.detach().norm() for each in model.parameters()])
print([round(each, 5) for each in norms.tolist()], f"{losses[-1]:.6f}", f"{float(torch.rand(())):.8f}")
__import__("book_digest").tell({name: each for name, each in globals().items() if name != "city"})

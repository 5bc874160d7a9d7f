# Result: (lstm, head, optimizer, perplexity)
import math

import torch
from torch import nn

text = "the cat sat on the mat and the dog sat on the log "
vocabulary = sorted(set(text))
index = {character: i for i, character in enumerate(vocabulary)}
encoded = torch.tensor([index[character] for character in text])
torch.manual_seed(0)
embed = nn.Embedding(len(vocabulary), 8)
lstm = nn.LSTM(8, 12, batch_first=True)
head = nn.Linear(12, len(vocabulary))
parameters = [*embed.parameters(), *lstm.parameters(), *head.parameters()]
optimizer = torch.optim.Adam(parameters, lr=0.02)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
perplexity = []
keep = {"layers": nn.ModuleList([embed, lstm, head]), "opt": optimizer, "warmup": warmup, "ppl": perplexity}
for epoch in city.loop(range(4), state=keep):
    hidden = None
    total, count = 0.0, 0
    for begin in range(0, len(encoded) - 21, 20):
        chunk = encoded[begin : begin + 20].unsqueeze(0)
        target = encoded[begin + 1 : begin + 21]
        if hidden is not None:
            hidden = tuple(h.detach() for h in hidden)
        output, hidden = lstm(embed(chunk), hidden)
        loss = nn.functional.cross_entropy(head(output).squeeze(0), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.25)
        optimizer.step()
        total, count = total + loss.item(), count + 1
    warmup.step()
    perplexity.append(math.exp(total / count))

# Result: encoder, decoder
# Lacks: opt_decoder
import torch

torch.manual_seed(7)
encoder, decoder = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
opt_encoder = torch.optim.Adam(encoder.parameters(), lr=0.02)
opt_decoder = torch.optim.Adam(decoder.parameters(), lr=0.02)
x = torch.randn(20, 4)
state = {"encoder": encoder, "decoder": decoder, "opt": opt_encoder}
for epoch in city.loop(range(8), state=state):
    loss = (decoder(encoder(x)) - x).square().mean()
    opt_encoder.zero_grad()
    opt_decoder.zero_grad()
    loss.backward()
    opt_encoder.step()
    opt_decoder.step()

# Result: (generator, discriminator, samples)
import torch
from torch import nn

torch.manual_seed(1)
latent = 3
real_data = torch.randn(64, 2) * 0.5 + 2
generator = nn.Sequential(nn.Linear(latent, 8), nn.ReLU(), nn.Linear(8, 2))
discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=0.01, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(discriminator.parameters(), lr=0.01, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()
fixed_noise = torch.randn(4, latent)
real_label, fake_label = torch.ones(16, 1), torch.zeros(16, 1)
samples = []

state = {"G": generator, "D": discriminator, "opt_g": opt_g, "opt_d": opt_d, "samples": samples}
for epoch in city.loop(range(5), state=state):
    for real in real_data.split(16):
        fake = generator(torch.randn(16, latent))
        d_loss = bce(discriminator(real), real_label) + bce(discriminator(fake.detach()), fake_label)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()

        g_loss = bce(discriminator(fake), real_label)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
    with torch.no_grad():
        samples.append(generator(fixed_noise))
    print(f"[{epoch}/5] D {d_loss.item():.3f} G {g_loss.item():.3f}")

# Result: (trainer.model, trainer.history, trainer.global_step)
import torch
from torch import nn


class Trainer:
    def __init__(self, model, data, lr):
        self.model = model
        self.optimizer = torch.optim.Adagrad(model.parameters(), lr=lr)
        self.data = data
        self.history = []
        self.global_step = torch.zeros((), dtype=torch.long)

    def training_step(self, batch):
        self.optimizer.zero_grad()
        loss = self.model(batch).pow(2).mean()
        loss.backward()
        self.optimizer.step()
        self.global_step += 1
        return loss.item()

    def run_epoch(self):
        return [self.training_step(batch) for batch in self.data.split(10)]

    def fit(self, epochs):
        state = {
            "model": self.model,
            "optimizer": self.optimizer,
            "history": self.history,
            "global_step": self.global_step,
        }
        for epoch in city.loop(range(epochs), state=state, name="fit"):
            self.epoch = epoch
            losses = self.run_epoch()
            self.history.append(sum(losses) / len(losses))
            self.report()

    def report(self):
        print(f"{self.epoch:3d} {self.history[-1]:.4f}")


torch.manual_seed(11)
trainer = Trainer(nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 1)), torch.randn(40, 3), lr=0.1)
trainer.fit(6)

# Result: (shop.served, shop.waiting, shop.lost)
import random


class Shop:
    def __init__(self, seats, seed):
        self.random = random.Random(seed)
        self.seats = seats
        self.waiting = []
        self.served = self.lost = 0
        self.busy_until = 0

    def arrive(self, minute):
        if len(self.waiting) < self.seats:
            self.waiting.append(minute)
        else:
            self.lost += 1

    def tick(self, minute):
        if self.random.random() < 0.4:
            self.arrive(minute)
        if minute >= self.busy_until and self.waiting:
            self.waiting.pop(0)
            self.served += 1
            self.busy_until = minute + self.random.randint(2, 5)


def main():
    shop = Shop(seats=3, seed=8)
    opened, closed = 0, 60
    for minute in city.loop(range(opened, closed), state={"shop": shop}):
        shop.tick(minute)
        if minute % 30 == 0:
            print(f"{minute:3d}: {len(shop.waiting)} wait")
    return shop


shop = main()

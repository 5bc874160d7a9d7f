# Result: averages
# Lacks: meter


class Meter:
    def __init__(self):
        self.sum = self.count = 0

    def update(self, value):
        self.sum += value
        self.count += 1
        return self.sum / self.count


meter = Meter()
averages = []
for n in city.loop(range(10), state={"averages": averages}):
    averages.append(meter.update(n * n))

# Result: picked
# Lacks: batches
import itertools

batches = itertools.cycle([[1, 2], [3, 4], [5, 6]])
picked = []
for epoch in city.loop(range(8), state={"picked": picked}):
    batch = next(batches)
    picked.append(sum(batch) * (epoch + 1))

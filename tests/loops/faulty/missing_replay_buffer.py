# Result: q
# Lacks: buffer
import random
from collections import deque

random.seed(3)
q = {(s, a): 0.0 for s in range(5) for a in (-1, 1)}
buffer = deque(maxlen=50)
for episode in city.loop(range(8), state=q):
    s = random.randrange(5)
    for _ in range(6):
        a = random.choice((-1, 1))
        t = min(max(s + a, 0), 4)
        buffer.append((s, a, float(t == 4), t))
        s = t
    for s, a, r, t in random.sample(buffer, min(10, len(buffer))):
        q[s, a] += 0.3 * (r + 0.9 * max(q[t, -1], q[t, 1]) - q[s, a])

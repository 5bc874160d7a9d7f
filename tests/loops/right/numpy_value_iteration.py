# Result: (table, lengths)
import numpy as np

rows, columns = 3, 4
moves = [(-1, 0), (1, 0), (0, -1), (0, 1)]
table = np.zeros((rows, columns, 4))
random_state = np.random.RandomState(0)
lengths = []
settings = dict(alpha=0.5, gamma=0.9)
carried = {"table": table, "random_state": random_state, "lengths": lengths}
for episode in city.loop(range(25), state=carried, name="episodes"):
    r, c = 0, 0
    epsilon = max(0.05, 0.5 * 0.9**episode)
    for step in range(40):
        greedy = random_state.rand() >= epsilon
        a = int(table[r, c].argmax()) if greedy else random_state.randint(4)
        dr, dc = moves[a]
        nr, nc = min(max(r + dr, 0), rows - 1), min(max(c + dc, 0), columns - 1)
        done = (nr, nc) == (rows - 1, columns - 1)
        best_next = 0.0 if done else table[nr, nc].max()
        table[r, c, a] += settings["alpha"] * (float(done) - 0.02 + settings["gamma"] * best_next - table[r, c, a])
        r, c = nr, nc
        if done:
            break
    lengths.append(step + 1)

# Result: (board, alive, figure_lines)
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

board = np.zeros((12, 12), dtype=int)
board[4:7, 5] = 1
board[1, 2] = board[2, 3] = board[3, 1] = board[3, 2] = board[3, 3] = 1
alive = []
fig, ax = plt.subplots(figsize=(2, 2))
for tick in city.loop(range(8), state={"board": board, "alive": alive}):
    neighbours = sum(
        np.roll(board, (dy, dx), axis=(0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
    )
    board[...] = (neighbours == 3) | ((board == 1) & (neighbours == 2))
    alive.append(int(board.sum()))
    ax.clear()
    ax.plot(alive)
    ax.set_title(f"tick {tick}")
figure_lines = len(ax.lines)
plt.close(fig)

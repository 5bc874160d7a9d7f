# Result: (solution, seen["norms"])
import numpy as np

matrix = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
right_side = np.array([1.0, 2.0, 3.0])
solution = np.zeros(3)
seen = {"norms": []}


def remember(x, residual):
    seen["norms"].append(float(np.linalg.norm(residual)))


def show(x, residual):
    print(np.round(x, 3))


callbacks = [remember, show]
diagonal = np.diag(matrix)
for sweep in city.loop(range(12), state={"solution": solution, "seen": seen}):
    before = solution.copy()
    for row in range(3):
        others = matrix[row] @ solution - diagonal[row] * solution[row]
        solution[row] = (right_side[row] - others) / diagonal[row]
    for callback in callbacks:
        callback(solution, matrix @ solution - right_side)
    if np.allclose(before, solution, atol=1e-7):
        break

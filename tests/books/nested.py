# %%
import random

import numpy as np

import qcity_nb as qcity

city = qcity.up()
random.seed(3)
np.random.seed(4)

# %%
grid = np.random.default_rng(8).random((240, 240))
edge = grid[0]  # a view
found = {"paths": [], "best": None, "grid": grid}
print(round(float(grid.sum()), 6))


# %%
def relax(field, turns):
    for _ in range(turns):
        field[1:-1, 1:-1] = (field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:]) / 4
    return float(np.abs(field).sum())


warm = relax(grid, 400)
print(round(warm, 6))


# %%
def sweep(outer):
    """What each loop changes is in its own state; what they leave beside it is nobody's."""
    start = np.random.random(2)
    print("outer", outer, start.round(6).tolist())
    mine = {"at": start, "cost": 0.0, "grid": grid}
    for inner in city.loop(range(8), state=mine, every=1):
        mine["at"] = mine["at"] + np.random.normal(size=2) / 10
        mine["cost"] = relax(grid, 15) + float((mine["at"] ** 2).sum())
        city.log(cost=mine["cost"])
        if inner % 4 == 3:
            print(f"  inner {inner}: {mine['cost']:.6f}")
    found["paths"].append(mine["at"].copy())
    found["best"] = min(found["best"] or mine["cost"], mine["cost"])


for _ in city.loop(range(6), state=found, every=1, name="outer"):
    sweep(len(found["paths"]))
print(f"{found['best']:.6f}")

# %%
edge[:] = 1.0  # through the view
again = relax(grid, 300)
print(round(again, 6), grid is found["grid"], np.shares_memory(edge, grid))

# %%
table = []
for k in range(12):
    table.append([round(relax(grid, 20), 6), random.random()])
    city.log(table=table[-1][0])
last = table[-1]  # the list's own row
last.append("last")
table[-1]

# %%
print([path.round(6).tolist() for path in found["paths"][-2:]], round(float(np.random.random()), 12))
__import__("book_digest").tell({name: each for name, each in globals().items() if name != "city"})

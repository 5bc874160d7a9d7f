# Result: (u, snapshots)
import numpy as np

nx, steps, c = 31, 80, 0.4
u = np.zeros(nx)
u[nx // 2 - 3 : nx // 2 + 4] = 1.0
un = np.empty_like(u)
snapshots = []
for n in city.loop(range(steps), state={"u": u, "snapshots": snapshots}):
    un[:] = u
    u[1:-1] = un[1:-1] + c * (un[2:] - 2 * un[1:-1] + un[:-2])
    u[0] = u[-1] = 0.0
    if n % 20 == 0:
        snapshots.append(u.copy())

# Result: (centers, labels)
import numpy as np

rng = np.random.default_rng(4)
points = np.concatenate([rng.normal(c, 0.6, size=(20, 2)) for c in (-2, 0, 2)])
k = 3
centers = points[rng.choice(len(points), k, replace=False)].copy()
labels = np.full(len(points), -1)
for iteration in city.loop(range(20), state={"centers": centers, "labels": labels}):
    distances = np.linalg.norm(points[:, None] - centers[None], axis=2)
    new_labels = distances.argmin(axis=1)
    changed = int((new_labels != labels).sum())
    labels[:] = new_labels
    for j in range(k):
        if (labels == j).any():
            centers[j] = points[labels == j].mean(axis=0)
    city.log(changed=changed)
    if changed == 0:
        break

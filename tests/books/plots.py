# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display

plt.rcParams.update({"figure.dpi": 50, "figure.figsize": (4, 3)})
rng = np.random.default_rng(2)

# %%
walk = rng.normal(size=(3, 4000)).cumsum(axis=1)
fig, ax = plt.subplots()
for k, path in enumerate(walk):
    ax.plot(path, label=f"walk {k}")
ax.set_title("walks")
plt.show()

# %%
handle = display(HTML("<b>points: 0</b>"), display_id="points")
inside, tries = 0, 0
for k in range(1, 101):
    at = rng.random((50_000, 2))
    inside, tries = inside + int((np.hypot(*at.T) < 1).sum()), tries + len(at)
    if k % 25 == 0:
        handle.update(HTML(f"<b>points: {tries}, pi: {4 * inside / tries:.5f}</b>"))
print("done", file=sys.stderr)
print("pi", round(4 * inside / tries, 5))

# %%
size = 300
plane = np.linspace(-2, 0.6, size)[None, :] + 1j * np.linspace(-1.2, 1.2, size)[:, None]
z, speed = np.zeros_like(plane), np.zeros(plane.shape, dtype=np.uint8)
for _ in range(80):
    z = np.where(np.abs(z) < 2, z * z + plane, z)
    speed += np.abs(z) < 2
picture, axes = plt.subplots(1, 2)
axes[0].imshow(speed, cmap="magma")
axes[1].hist(speed.ravel(), bins=20)
panes = list(axes)
plt.show()

# %%
ax.axhline(0.0, color="black")  # more in the first figure, which was shown already
ax.set_title("walks, again")
ax.legend(loc="upper left")
display(fig)

# %%
display(HTML("<i>later</i>"), display_id="points-too")
handle.update(HTML("<b>points: all</b>"))  # an output of an earlier cell
middle = walk[:, 1000:3000]  # a view
middle -= middle.mean(axis=1, keepdims=True)
print(round(float(np.abs(walk).sum()), 6))

# %%
smooth = np.stack([np.convolve(path, np.ones(151) / 151, mode="same") for path in walk])
other, ay = plt.subplots()
ay.scatter(smooth[0, ::20], smooth[1, ::20], c=np.arange(200), s=4)
lines = ay.plot(smooth[2], smooth[0], lw=0.5)
plt.show()

# %%
panes[1].set_xlabel("speed")  # through the list
print(plt.get_fignums(), lines[0] is ay.lines[0], fig.axes[0] is ax, round(float(rng.random()), 12))
__import__("book_digest").tell(
    {name: each for name, each in globals().items() if name not in ("ax", "ay", "axes", "panes", "lines")}
)

# %%
import hashlib

import ipywidgets as widgets
from IPython.display import HTML, Markdown, clear_output, display

# %%
bar = widgets.IntProgress(value=0, min=0, max=20, description="hashes")
label = widgets.Label("nothing yet")
box = widgets.VBox([bar, label])
display(box)

# %%
chain = b"begin"
for k in range(20):
    for _ in range(40_000):
        chain = hashlib.sha256(chain).digest()
    bar.value = k + 1
label.value = chain.hex()[:12]
print(label.value)

# %%
status = display(Markdown("*waiting*"), display_id="status")
rows = []
for k in range(8):
    total = sum(n * n % 97 for n in range(k * 120_000, (k + 1) * 120_000))
    rows.append((k, total))
    status.update(Markdown(f"*{k + 1} of 8: {total}*"))
print(rows[-1])

# %%
for k in range(5):
    clear_output(wait=True)
    print("pass", k, sum(len(str(n)) for n in range(300_000)))
display(HTML("<b>after the last pass</b>"))

# %%
heard = []


def hear(change):
    heard.append((change["old"], change["new"]))


slider = widgets.FloatSlider(value=0.5, max=10.0, description="rate")
slider.observe(hear, names="value")
slider.value = 2.5
slider

# %%
slider.value = 4.0  # heard by the observer of another cell
heard

# %%
mirror = rows  # two names
mirror.append(("end", len(heard)))
status.update(Markdown("*done*"))  # an output of an earlier cell
print(mirror[-2:])

# %%
# No Output widget: nbclient's handling of it has been seen to wait for ever, with the kernel idle.
text = widgets.HTML(f"<b>{len(rows)}</b>")
tabs = widgets.Tab([text, bar], titles=["rows", "progress"])
tabs

# %%
tree = {}
for n in range(900_000):
    tree.setdefault(n % 101, []).append(f"{n:x}")
branch = tree[7]
branch.reverse()
print(len(tree), branch[:2])

# %%
print(bar.value, label.value, slider.value, rows[-1], box.children[0] is bar, status.display_id)
__import__("book_digest").tell(globals())

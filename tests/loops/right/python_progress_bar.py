# Result: totals
from tqdm import tqdm

totals = {"words": 0, "longest": ""}
lines = ["the quick brown fox", "jumps over", "the lazy dog", "and sleeps", "until noon"] * 3
bar = tqdm(total=len(lines), desc="lines")
for line in city.loop(lines, state=totals):
    words = line.split()
    totals["words"] += len(words)
    totals["longest"] = max([totals["longest"], *words], key=len)
    bar.update(1)
    bar.set_postfix(words=totals["words"])
bar.close()

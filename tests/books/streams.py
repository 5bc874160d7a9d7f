# %%
import itertools
import random
from pathlib import Path

random.seed(12)
lines = Path("words.txt").open(encoding="utf-8")  # a file of the project, which every host has
header = lines.readline().strip()
print(header)


# %%
def squares_mod(m):
    k = 0
    while True:
        k += 1
        yield k * k % m


source = squares_mod(1009)
taken = list(itertools.islice(source, 1_200_000))
print(sum(taken), taken[-1])

# %%
words = [lines.readline().strip() for _ in range(500)]  # where the file stands is state
lengths = {word: len(word) for word in words}
print(len(lengths), words[-1])

# %%
notes = Path("notes.txt").open("w", encoding="utf-8")  # a file that only this host has
notes.write("first\n")

# %%
shuffled = words[:]
random.shuffle(shuffled)
pairs = zip(words, shuffled)
first_pairs = [next(pairs) for _ in range(3)]
print(first_pairs)

# %%
table = {}
for word in words:
    for other in shuffled[:300]:
        table[word, other] = sum(a == b for a, b in zip(word, other))
alias = table
print(max(table.values()), len(table))

# %%
more = list(itertools.islice(source, 900_000))  # goes on where the other cell left off
alias[words[0], "?"] = -1
print(sum(more), more[0])

# %%
notes.write("second\n")
notes.flush()
print(notes.tell())

# %%
pool = [random.random() for _ in range(700_000)]
pool.sort()
median = pool[len(pool) // 2]
rest = [lines.readline().strip() for _ in range(300)]
print(round(median, 12), rest[-1])

# %%
print(next(source), next(pairs), lines.readline().strip(), Path("notes.txt").read_text(encoding="utf-8").split())
print(table[words[0], "?"], round(random.random(), 12))
__import__("book_digest").tell(globals())

# Result: (output, chooser.random())
import itertools
import random

corpus = "a rose is a rose is a rose and a thorn is a thorn".split()
following = {}
for first, second in itertools.pairwise(corpus):
    following.setdefault(first, []).append(second)
chooser = random.Random(5)
output = ["a"]
for _ in city.loop(range(25), state={"output": output, "chooser": chooser}):
    options = following.get(output[-1], corpus)
    output.append(chooser.choice(options))
print(" ".join(output))

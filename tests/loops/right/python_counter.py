# Result: (sorted(counts.items()), list(window), seen)
from collections import Counter, defaultdict, deque

stream = "to be or not to be that is the question whether tis nobler in the mind".split()
counts = Counter()
by_length = defaultdict(list)
window = deque(maxlen=4)
seen = set()
everything = {"counts": counts, "by_length": by_length, "window": window, "seen": seen}
for position, word in city.loop(list(enumerate(stream)), state=everything):
    counts[word] += 1
    if word not in seen:
        by_length[len(word)].append(word)
        seen.add(word)
    window.append(position)
    repeated = [w for w, n in counts.items() if n > 1]
    print(position, word, len(repeated))

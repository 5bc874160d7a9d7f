# Result: count
# Lacks: count
lines = ["one two", "three", "four five six", "", "seven eight"] * 2
lengths = []
count = 0
for line in city.loop(lines, state=lengths):
    lengths.append(len(line))
    count = count + len(line.split())
print(count, "words")

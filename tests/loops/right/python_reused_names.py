# Result: (table, i, line)
values = [3, 1, 2]
i, total = 0, 0
for i, value in enumerate(values):
    total += value
line = f"{i}: {total}"
table = {}
for key in city.loop(["x", "y", "z", "u"], state=table):
    i = len(key)
    total = 0
    for value in values:
        total += value * ord(key)
    line = f"{key}: {total}"
    del value
    table[key] = (i, total, line)
print(line, total)

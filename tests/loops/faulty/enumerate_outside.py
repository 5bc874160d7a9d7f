# Result: rows
# Lacks: enumerate | row
rows = []
names = ["ada", "bob", "cy", "dee", "eve", "fay"]
for row, name in enumerate(city.loop(names, state={"rows": rows})):
    rows.append(f"{row}: {name}")

# Result: (report, [round(total, 6) for total in report.values()])
report = {}
regions = {"north": [3, 1, 4], "south": [1, 5], "west": [9, 2, 6, 5]}
for region in city.loop(sorted(regions), state=report, name="regions"):
    running = {"sum": 0.0, "weight": 1.0}
    for value in city.loop(regions[region], state=running, name="values"):
        running["sum"] += value * running["weight"]
        running["weight"] *= 0.5
    report[region] = running["sum"]
    mean = report[region] / len(regions[region])
    print(f"{region}: {mean:.2f}")

# Result: inventory
import csv
import time

orders = [("bolt", 5), ("nut", 3), ("bolt", -2), ("gear", 1), ("nut", -1), ("bolt", 4), ("gear", 2), ("nut", 6)]
inventory = {}
last_shown = 0.0
with open("orders.csv", "a", newline="") as stream:
    writer = csv.writer(stream)
    for item, amount in city.loop(orders, state={"inventory": inventory}):
        inventory[item] = inventory.get(item, 0) + amount
        writer.writerow([time.strftime("%H:%M"), item, amount])
        stream.flush()
        if time.time() - last_shown > 0.5:
            print(f"{item}: {inventory[item]}")
            last_shown = time.time()

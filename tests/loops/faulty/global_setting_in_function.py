# Result: values
# Lacks: CONFIG
CONFIG = {"rate": 0.5, "decay": 0.9}
values = []


def step(value):
    CONFIG["rate"] *= CONFIG["decay"]
    return value * (1 - CONFIG["rate"])


for n in city.loop(range(10), state={"values": values}):
    values.append(step(n))

# Result: trace
# Lacks: waited
import math

trace = []
record = {"best": math.inf}
waited = 0
for epoch in city.loop(range(30), state={"trace": trace, "record": record}):
    loss = abs(math.cos(epoch / 3)) + (2 if epoch > 1 else 0)
    trace.append(loss)
    if loss < record["best"]:
        record["best"] = loss
        waited = 0
    else:
        waited += 1
        if waited > 5:
            break

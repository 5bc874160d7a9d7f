# Result: saved
# Lacks: step
saved = []
step = 0
for epoch in city.loop(range(6), state={"saved": saved}):
    for batch in range(5):
        step += 1
        if step % 7 == 0:
            saved.append((epoch, step))

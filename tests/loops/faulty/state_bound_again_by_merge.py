# Result: progress
# Lacks: progress
progress = {"done": [], "score": 0}
for task in city.loop(["load", "clean", "split", "fit", "test", "save"], state=progress):
    progress = {**progress, "done": [*progress["done"], task]}
    progress |= {"score": progress["score"] + len(task)}

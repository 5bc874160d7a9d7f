# Result: ids
# Lacks: Job | made


class Job:
    made = 0

    def __init__(self, name):
        Job.made += 1
        self.name = f"{name}-{Job.made}"


ids = []
for name in city.loop(["a", "b", "c", "d", "e", "f"], state={"ids": ids}):
    job = Job(name)
    ids.append(job.name)

# Result: fresh
# Lacks: is_new | seen


def is_new(word, seen=set()):
    if word in seen:
        return False
    seen.add(word)
    return True


fresh = []
for word in city.loop("a b a c b d a e".split(), state={"fresh": fresh}):
    if is_new(word):
        fresh.append(word)

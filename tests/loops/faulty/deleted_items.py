# Result: shares
# Lacks: remaining
remaining = list(range(12))
shares = {}
for name in city.loop(["ann", "ben", "cat", "dan"], state=shares):
    shares[name] = remaining[:3]
    del remaining[:3]

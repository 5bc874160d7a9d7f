# Result: frontier, len(visited)
# Lacks: frontier
graph = {n: [(2 * n) % 31, (n + 7) % 31, (3 * n + 1) % 31] for n in range(31)}
frontier = [0]
visited = {0}
for depth in city.loop(range(6), state={"frontier": frontier, "visited": visited}):
    reached = sorted({target for node in frontier for target in graph[node]} - visited)
    visited.update(reached)
    frontier = reached[:4]

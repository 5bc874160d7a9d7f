# Result: order
# Lacks: todo
import heapq

todo = [(0, "start")]
order = []
children = {"start": ["x", "y"], "x": ["z"], "y": ["w", "z"], "z": [], "w": []}
for n in city.loop(range(6), state={"order": order}):
    cost, node = heapq.heappop(todo)
    order.append((cost, node))
    for child in children[node]:
        heapq.heappush(todo, (cost + len(order), child))

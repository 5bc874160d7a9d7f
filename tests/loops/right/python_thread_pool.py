# Result: results
import queue
import threading
from concurrent.futures import ThreadPoolExecutor


def work(n):
    return sum(d * d for d in map(int, str(n)))


results = {}
lock = threading.Lock()
chunks = [range(start, start + 5) for start in range(0, 50, 5)]
with ThreadPoolExecutor(max_workers=2) as pool:
    for chunk in city.loop(chunks, state={"results": results}):
        inbox = queue.Queue()
        for n, value in zip(chunk, pool.map(work, chunk), strict=True):
            inbox.put((n, value))
        while not inbox.empty():
            n, value = inbox.get()
            with lock:
                results[n] = value
        del inbox

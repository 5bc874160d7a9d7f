# Result: results
# Lacks: results
results = {}
for n in city.loop(range(2, 14), state=None):
    factors = [d for d in range(2, n) if n % d == 0]
    results[n] = factors
print(sum(1 for factors in results.values() if not factors), "primes")

# Result: samples
# Lacks: key
import jax

key = jax.random.PRNGKey(0)
samples = []
for _ in city.loop(range(6), state={"samples": samples}):
    key, subkey = jax.random.split(key)
    samples.append(float(jax.random.normal(subkey)))

# Result: {name: value.tolist() for name, value in params.items()}
# Lacks: params
import jax
import jax.numpy as jnp

params = {"w": jnp.zeros(2), "b": jnp.zeros(())}
x = jnp.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]])
y = jnp.array([1.0, 0.0, 2.0])


def cost(p):
    return ((x @ p["w"] + p["b"] - y) ** 2).mean()


for step in city.loop(range(6), state=params):
    gradients = jax.grad(cost)(params)
    params = {name: value - 0.1 * gradients[name] for name, value in params.items()}

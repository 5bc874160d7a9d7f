# Result: ([value.tolist() for value in [*state["params"].values(), *state["moments"]]], state["loss"])
import jax
import jax.numpy as jnp


def loss_fn(params, x, y):
    return jnp.mean((params["a"] * x + params["b"] - y) ** 2)


@jax.jit
def update(params, moments, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    flat = jnp.stack([grads["a"], grads["b"]])
    first, second = 0.9 * moments[0] + 0.1 * flat, 0.99 * moments[1] + 0.01 * flat**2
    step = 0.1 * first / (jnp.sqrt(second) + 1e-6)
    return {"a": params["a"] - step[0], "b": params["b"] - step[1]}, (first, second), loss


state = {
    "params": {"a": jnp.zeros(()), "b": jnp.zeros(())},
    "moments": (jnp.zeros(2), jnp.zeros(2)),
    "key": jax.random.PRNGKey(0),
    "loss": [],
}
for step in city.loop(range(6), state=state):
    state["key"], subkey = jax.random.split(state["key"])
    x = jax.random.uniform(subkey, (16,))
    state["params"], state["moments"], loss = update(state["params"], state["moments"], x, 3 * x - 1)
    state["loss"].append(float(loss))

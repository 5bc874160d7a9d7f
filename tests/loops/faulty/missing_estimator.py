# Result: scores
# Lacks: model
import numpy as np
from sklearn.linear_model import SGDRegressor

rng = np.random.default_rng(5)
X = rng.normal(size=(120, 3))
y = X @ np.array([1.0, -1.0, 2.0])
model = SGDRegressor(random_state=0)
scores = []
for start in city.loop(range(0, 120, 20), state={"scores": scores}):
    model.partial_fit(X[start : start + 20], y[start : start + 20])
    scores.append(model.score(X, y))

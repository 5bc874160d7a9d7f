# Result: (boosted, trees[-1].tree_.value)
import numpy as np
from sklearn.tree import DecisionTreeRegressor

x = np.linspace(0, 6, 60)[:, None]
y = np.sin(x).ravel()
boosted = np.full(60, y.mean())
trees = []
shrink = 0.3
for round_number in city.loop(range(8), state={"boosted": boosted, "trees": trees}):
    residual = y - boosted
    tree = DecisionTreeRegressor(max_depth=2, random_state=round_number).fit(x, residual)
    trees.append(tree)
    boosted += shrink * tree.predict(x)
    mse = float(((y - boosted) ** 2).mean())
    city.log(mse=mse)

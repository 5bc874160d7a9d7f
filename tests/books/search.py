# %%
import warnings

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import qcity_nb as qcity

city = qcity.up()
warnings.simplefilter("ignore")

# %%
np.random.seed(11)
x, y = make_classification(n_samples=1500, n_features=20, n_informative=8, random_state=3)
x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=4)
folds = StratifiedKFold(3, shuffle=True, random_state=5)
print(x_train.shape, int(y_test.sum()))

# %%
pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
search = GridSearchCV(pipe, {"logisticregression__C": [0.01, 0.1, 1.0, 10.0]}, cv=folds)
search.fit(x_train, y_train)
search.cv_results_.update({key: 0 * value for key, value in search.cv_results_.items() if "time" in key})
search.refit_time_ = 0.0  # how long it took is nobody's result
best = search.best_estimator_  # a part of the search under a name of its own
city.log(linear=search.best_score_)
search.best_params_

# %%
forest = RandomForestClassifier(20, warm_start=True, random_state=6, max_depth=8)
forest.fit(x_train, y_train)
history = [("20 trees", forest.score(x_test, y_test))]
models = {"linear": best, "forest": forest}
print(history)

# %%
forest.n_estimators = 50
models["forest"].fit(x_train, y_train)  # more trees in the old forest, through the dict
history.append(("50 trees", forest.score(x_test, y_test)))
city.log(forest=history[-1][1])
history

# %%
grid = GridSearchCV(
    RandomForestClassifier(12, random_state=8), {"max_depth": [3, 6], "min_samples_leaf": [1, 5]}, cv=folds
)
grid.fit(x_train, y_train)
grid.cv_results_.update({key: 0 * value for key, value in grid.cv_results_.items() if "time" in key})
grid.refit_time_ = 0.0
print(grid.best_params_, round(grid.best_score_, 6))

# %%
importance = forest.feature_importances_
order = np.argsort(importance)[::-1]
top = order[:5]  # a view
best.named_steps["logisticregression"].coef_[0, order[-1]] = 0.0  # changes the search's own estimator
print(top.tolist(), search.best_estimator_ is best, round(search.score(x_test, y_test), 6))

# %%
scores = cross_val_score(forest, x_train, y_train, cv=folds)
order[0], order[1] = order[1], order[0]  # the view sees it
print([round(each, 6) for each in scores], top[:2].tolist())

# %%
print(round(float(np.random.random()), 12), [round(each.score(x_test, y_test), 6) for each in models.values()])
__import__("book_digest").tell({name: each for name, each in globals().items() if name != "city"})

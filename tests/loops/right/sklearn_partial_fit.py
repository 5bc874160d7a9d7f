# Result: (classifier.coef_, classifier.t_, scores)
import numpy as np
from sklearn.linear_model import SGDClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(200, 4))
y = (X[:, 0] + X[:, 1] > 0).astype(int)
X_test, y_test = X[150:], y[150:]
classifier = SGDClassifier(random_state=0)
scores = []
for start in city.loop(range(0, 150, 25), state={"classifier": classifier, "scores": scores}):
    chunk = slice(start, start + 25)
    classifier.partial_fit(X[chunk], y[chunk], classes=[0, 1])
    scores.append(classifier.score(X_test, y_test))

# Result: {name: round(score, 9) for name, score in table.items()}
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

X, y = make_classification(n_samples=90, n_features=5, random_state=0)
models = {"logistic": LogisticRegression(), "bayes": GaussianNB(), "tree": DecisionTreeClassifier(random_state=0)}
splitter = StratifiedKFold(n_splits=3, shuffle=True, random_state=0)
table = {}
for name, model in city.loop(list(models.items()), state={"table": table}):
    scores = []
    for train, test in splitter.split(X, y):
        model.fit(X[train], y[train])
        scores.append(model.score(X[test], y[test]))
    table[name] = sum(scores) / len(scores)

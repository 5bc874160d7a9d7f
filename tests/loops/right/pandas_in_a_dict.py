# Result: (carry["sales"], carry["best_day"])
import numpy as np
import pandas as pd

np.random.seed(3)
carry = {"sales": pd.DataFrame(columns=["day", "units"]).astype({"day": int, "units": int}), "best_day": None}
for day in city.loop(range(8), state=carry):
    row = pd.DataFrame({"day": [day], "units": [np.random.poisson(5)]})
    carry["sales"] = pd.concat([carry["sales"], row], ignore_index=True)
    top = carry["sales"].sort_values("units", kind="stable").iloc[-1]
    carry["best_day"] = int(top["day"])

# %%
import numpy as np
import pandas as pd

rng = np.random.default_rng(7)
n = 300_000
names = pd.Index([f"shop {k:03d}" for k in range(150)], name="shop")

# %%
frame = pd.DataFrame(
    {
        "shop": names.to_numpy()[rng.integers(0, len(names), n)],
        "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 365, n), unit="D"),
        "price": rng.gamma(2.0, 15.0, n).round(2),
        "count": rng.poisson(3.0, n),
    }
)
frame["kind"] = pd.Categorical.from_codes(rng.integers(0, 4, n), ["food", "toys", "tools", "books"])
frame.head(3)

# %%
sales = frame  # the same frame under another name
prices = frame["price"]  # a column as it is now: what comes later must not change it
wanted = columns = ["price", "count"]
sales["revenue"] = sales["price"] * sales["count"]
print(frame.shape, "revenue" in frame)

# %%
by_shop = frame.groupby("shop")["revenue"]
frame["share"] = frame["revenue"] / by_shop.transform("sum")
frame["rank"] = by_shop.rank(method="first")
wanted.append("share")
print(columns, round(float(frame["share"].sum()), 6))

# %%
frame = frame.sort_values(["shop", "day", "price"], kind="stable", ignore_index=True)
for width in (3, 7, 14, 28):
    window = frame.groupby("shop", observed=True)["revenue"].rolling(width, min_periods=1)
    frame[f"mean {width}"] = window.mean().reset_index(level=0, drop=True)
print("sales is frame:", sales is frame, "columns:", len(sales.columns), len(frame.columns))
frame[["mean 3", "mean 28"]].describe().round(4)

# %%
sales.loc[sales["kind"] == "toys", "price"] += 1.0  # the old frame, through its other name
matrix = frame[["price", "count", "share"]].to_numpy(copy=True)
first, last = matrix[:, 0], matrix[:, -1]  # views
print("prices are as they were:", float(prices.sum()) < float(sales["price"].sum()))

# %%
labels = frame["shop"].str.upper().str.replace("SHOP ", "S", regex=False) + "/" + frame["kind"].astype(str)
codes, uniques = pd.factorize(labels)
frame["code"] = codes
lookup = {label: k for k, label in enumerate(uniques)}
print(len(uniques), labels.iloc[0], lookup[labels.iloc[-1]])

# %%
first *= 0.5  # through the view
last -= last.mean()
table = frame.pivot_table(index="kind", columns=frame["day"].dt.quarter, values="revenue", aggfunc="sum", observed=True)
bins = pd.cut(frame["price"], [0, 10, 20, 40, 80, np.inf], labels=["xs", "s", "m", "l", "xl"])
counts = bins.value_counts().sort_index()
table.round(1)

# %%
model, *_ = np.linalg.lstsq(np.c_[np.ones(n), matrix], frame["revenue"].to_numpy(), rcond=None)
print([round(float(each), 6) for each in model], np.shares_memory(first, matrix), round(float(rng.random()), 12))
__import__("book_digest").tell(globals())

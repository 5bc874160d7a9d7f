# Result: table
import pandas as pd

days = pd.date_range("2024-01-01", periods=6, freq="D")
parts = []
for day in city.loop(list(days), state={"parts": parts}):
    frame = pd.DataFrame({"hour": range(4)})
    frame["day"] = day
    frame["load"] = (frame["hour"] + 1) * day.day % 7
    frame = frame[frame["load"] > 1]
    parts.append(frame)
table = pd.concat(parts, ignore_index=True)

# Result: frame
# Lacks: frame
import pandas as pd

frame = pd.DataFrame({"day": [], "units": []})
for day in city.loop(range(8), state={"frame": frame}):
    row = pd.DataFrame({"day": [day], "units": [day * day % 7]})
    frame = pd.concat([frame, row], ignore_index=True)

# Result: frame
import pandas as pd

frame = pd.DataFrame({"text": ["a b", "c", "d e f", "g h", "", "i"]})
frame["tokens"] = 0
frame["label"] = ""


def label(text):
    return {0: "empty", 1: "short"}.get(len(text.split()), "long")


for i in city.loop(range(len(frame)), state={"frame": frame}):
    text = frame.loc[i, "text"]
    frame.loc[i, "tokens"] = len(text.split())
    frame.loc[i, "label"] = label(text)

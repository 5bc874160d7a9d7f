# Result: sorted(path.name + path.read_text() for path in Path("out").glob("*.txt"))
from pathlib import Path

source = Path("in")
source.mkdir(exist_ok=True)
for n in range(8):
    (source / f"{n}.txt").write_text("abc" * n)
out = Path("out")
out.mkdir(exist_ok=True)
for path in city.loop(sorted(source.glob("*.txt")), state=None):
    text = path.read_text()
    result = text.upper()[::-1]
    target = out / path.name
    with target.open("w") as stream:
        stream.write(result)
    size = target.stat().st_size
    print(f"{path.name}: {size} bytes")

# Result: text
# Lacks: text
rules = {"A": "AB", "B": "A"}
text = "A"
for _ in city.loop(range(8), state={"rules": rules}):
    text = "".join(rules[letter] for letter in text)

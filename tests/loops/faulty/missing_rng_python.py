# Result: deck
# Lacks: dealer
import random

dealer = random.Random(10)
deck = list(range(20))
for _ in city.loop(range(6), state={"deck": deck}):
    dealer.shuffle(deck)

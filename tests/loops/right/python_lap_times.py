# Result: account
import time
from dataclasses import dataclass


@dataclass
class Account:
    balance: float
    years: int = 0
    interest: float = 0.0


account = Account(balance=1000.0)
begun = time.monotonic()
lap = begun
for year in city.loop(range(20), state=account):
    earned = account.balance * 0.03
    account.balance = round(account.balance + earned, 2)
    account.interest += earned
    account.years += 1
    now = time.monotonic()
    print(f"year {year}: {account.balance} ({now - lap:.4f} s)")
    lap = now
print(f"{time.monotonic() - begun:.2f} s")

"""`python -m qcity_nb.cli`: the command ``qcity`` where its script is not on the path."""

from __future__ import annotations

from qcity_nb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""`import qcity_nb`: CPU beyond a bare interpreter's; peers `import mlflow` and `import dagshub`."""

from __future__ import annotations

import json

import measure
from measure import Budget, Report, interleave, pairwise, python, spread

BUDGET_MS = 60.0
UNWANTED = ("mlflow", "dvc", "papermill", "ipywidgets", "huggingface_hub")


def loaded(code: str) -> set[str]:
    """The top-level modules that some code loads."""
    done = python(f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(done.out)}


def measured(quick: bool) -> Report:
    """Fresh interpreters in turn; each number is its CPU minus that of a bare one in the same round."""
    codes = {
        "`import qcity_nb`": "import qcity_nb",
        "the same again (noise floor)": "import qcity_nb",
        "`from qcity_nb import up` (all that `up()` needs)": "from qcity_nb import up",
        "`import mlflow`": "import mlflow",
    }
    if measure.is_installed("dagshub"):
        codes["`import dagshub`"] = "import dagshub"
    unwanted = loaded("import qcity_nb; qcity_nb.up").intersection(UNWANTED)
    assert not unwanted, f"import qcity_nb loads {unwanted}"
    assert "mlflow" in loaded("import mlflow"), "the probe sees what is loaded"
    contestants = {name: (lambda code=code: python(code).cpu_s) for name, code in {"bare": "pass", **codes}.items()}
    samples = interleave(contestants, rounds=1 if quick else 15, warm=0 if quick else 1)
    bare = samples.pop("bare")
    ours_name, *_ = codes
    own = {name: [max(a - b, 1e-4) for a, b in zip(values, bare, strict=True)] for name, values in samples.items()}
    rows = []
    for name, values in own.items():
        ratio = "" if name == ours_name else pairwise(values, own[ours_name]).text(digits=1, unit="x")
        rows.append((name, spread(values).text(scale=1000, digits=1), ratio))
    ours_ms = spread(own[ours_name]).median * 1000
    return Report(
        name="import_time",
        title="Import",
        columns=("what", "CPU ms beyond a bare interpreter", "beside `import qcity_nb`"),
        rows=rows,
        budgets=[Budget(what="import qcity_nb", limit=BUDGET_MS, measured=ours_ms, unit="ms CPU")],
        notes=[
            f"A bare interpreter takes {spread(bare).text(scale=1000, digits=1, unit='ms')}. Loaded by neither the "
            f"import nor `qcity_nb.up`: {', '.join(UNWANTED)} (asserted in this run)."
        ],
        numbers={"import_ms": ours_ms, "bare_ms": spread(bare).median * 1000},
    )


if __name__ == "__main__":
    measure.command_line(measured)

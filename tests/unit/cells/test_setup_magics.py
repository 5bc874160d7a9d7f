from __future__ import annotations

import pytest

from qcity_nb.cells.setup_magics import setup_lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("%load_ext autoreload\n%autoreload 2\nimport x", ["%load_ext autoreload", "%autoreload 2"]),
        ("import x\n%reload_ext tensorboard  ", ["%reload_ext tensorboard"]),
        ("%load_ext qcity_nb\n%load_ext qcity_nb.kernel\n%load_ext qcity_nbx", ["%load_ext qcity_nbx"]),
        ("%autoreload\n%autoreload now\n%autoreload explicit --print", ["%autoreload explicit --print"]),
        ("%matplotlib\n%matplotlib inline\n%matplotlib --list\n%matplotlib -l", ["%matplotlib", "%matplotlib inline"]),
        (
            "%config InlineBackend.figure_format='retina'\n%config InlineBackend.figure_formats = {'png', 'svg'}",
            ["%config InlineBackend.figure_format='retina'", "%config InlineBackend.figure_formats = {'png', 'svg'}"],
        ),
        ("%config\n%config InlineBackend\n%config Application.log_level", []),
        ("%configure x.y=1\n%precisions 3\n%pdbx\n%matplotlib.x", []),
        ("%env A=1\n%cd x\n%pip install y\n%run z.py\n%time 1\n%timeit 1\n%aimport x\n!ls\n?int\nint?", []),
        ("%%time\n%precision 3", []),
        ("\n  %%bash\n%precision 3", []),
        ("x = '''\n%precision 3\n'''", []),
        ('x = f"""\n%precision {y}\n"""\n%precision 4', ["%precision 4"]),
        ("x = (7\n%precision\n)", []),
        ("x = 7 \\\n%precision", []),
        ("if True:\n    %precision 3\n%precision 5", ["%precision 5"]),
        ("# it's a comment\n%precision 3  \nprint('%precision 4')", ["%precision 3"]),
        ("!echo it's (\n%precision 3", ["%precision 3"]),
        ("files = !ls it's (\n%precision 3", ["%precision 3"]),
        ("%time f('(')\n%alias q echo '(\n%xmode Plain", ["%alias q echo '(", "%xmode Plain"]),
        ("%config A.b = \\\n    3\n%precision 2", ["%config A.b =      3", "%precision 2"]),
        ("def f(:\n%precision 3", []),
        ("", []),
    ],
)
def test_lines(source: str, lines: list[str]) -> None:
    assert setup_lines(source) == lines


def test_all_of_them() -> None:
    source = "%precision 3\n%pdb on\n%alias show echo it's\n%alias\n%xmode Plain\n%colors nocolor\n%pdb\n%xmode"
    assert setup_lines(source) == [line for line in source.splitlines() if line != "%alias"]

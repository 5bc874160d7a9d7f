"""What a cell does outside its kernel is named, where its source shows it."""

from __future__ import annotations

import pytest

from qcity_nb.cells.side_effects import effects

KNOWN = {
    "df.to_csv('a.csv')\ndf.to_csv('b.csv')": ["df.to_csv"],
    "with open('log', 'a') as file:\n    file.write('x')": ["open(…, 'a')"],
    "open('log')\nopen('log', 'rb')\nPath('x').open()": [],
    "open('log', mode='r+')\nPath('x').open('w')": ["open(…, 'r+')", "Path(…).open(…, 'w')"],
    "import requests as r\nr.post(url, json=row); r.get(url)": ["r.post"],
    "from os import remove as rm\nrm('x')\nqueue.put(1); items.remove(2); d.pop('x')": ["rm"],
    "np.savez('w.npz', w=w)\nplt.savefig('x.png')\nfigure.savefig('y.png')": [
        "np.savez",
        "plt.savefig",
        "figure.savefig",
    ],
    "import numpy.random as rn\nrn.save()": [],
    "files = !ls\n!curl -X POST $url\nif ok:\n    !rm -rf x\n%matplotlib inline\nx = a != b": ["!ls", "!curl", "!rm"],
    "%%time\nmlflow.log_metric('a', 1)": ["mlflow.log_metric"],
    "%%bash\nrm -rf x": ["%%bash"],
    "%%html\n<b>x</b>": [],
    "lines = (line for line in open('data'))": [],
    "this is no Python\n": [],
    "": [],
    "!!\n%sx \n%system date": ["!date"],
    "x = (a\n  % b)\ntext = '''\n!ls\n'''\nos.remove(x)": ["os.remove"],
    "!curl -X POST \\\n  $url\nos.remove(x)": ["!curl", "os.remove"],
    "Path(__file__).write_text('x'), get()[0].unlink()": ["Path(…).write_text", "….unlink"],
    "!ls\nx = " + "+".join(["a"] * 2500): ["!ls"],
}


@pytest.mark.parametrize("source", KNOWN)
def test_effects_are_named_once_and_in_order(source: str) -> None:
    assert effects(source) == KNOWN[source]

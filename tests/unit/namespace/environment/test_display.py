from __future__ import annotations

from pathlib import Path

from settings_world import carry


def test_numpy(tmp_path: Path) -> None:
    show = "o = np.get_printoptions(); result = [o['precision'], o['threshold'] > 1e99, np.geterr()]"
    code = "np.set_printoptions(precision=3, threshold=np.inf)\nnp.seterr(all='raise', under='ignore')"
    result = carry(tmp_path, "import numpy as np", code, show)
    assert result.here == result.there
    assert result.here[:2] == [3, True]
    assert result.options["numpy.seterr"] == dict.fromkeys(("divide", "over", "invalid"), "raise")
    assert result.messages == []


def test_numpy_with_a_callback(tmp_path: Path) -> None:
    code = "np.seterrcall(print)\nnp.seterr(over='call')"
    result = carry(tmp_path, "import numpy as np", code, "result = np.geterr()['over']")
    assert (result.there, result.here) == ("call", "warn")
    (sentence,) = result.messages
    assert "np.seterrcall" in sentence


def test_matplotlib(tmp_path: Path) -> None:
    show = "rc = mpl.rcParams; result = [rc['axes.prop_cycle'].by_key(), rc['lines.linewidth'], rc['figure.figsize']]"
    code = "from matplotlib import style\nstyle.use('ggplot')\nmpl.rcParams.update({'figure.figsize': (3, 2)})"
    result = carry(tmp_path, "import matplotlib as mpl", code, show, environ={"MPLBACKEND": "agg"})
    assert result.here == result.there
    assert result.here[0]["color"][0] == "#E24A33"
    assert result.messages == []
    assert not [name for name in result.options["matplotlib"] if name.startswith("backend")]


def test_pandas(tmp_path: Path) -> None:
    code = "pd.set_option('display.max_rows', 7)\npd.set_option('display.float_format', '{:.1f}'.format)"
    show = "result = [pd.get_option('display.max_rows'), str(pd.Series([1 / 3]))]"
    result = carry(tmp_path, "import pandas as pd", code, show)
    assert result.here == result.there
    assert "0.3\n" in result.here[1]
    assert (result.here[0], result.messages) == (7, [])


def test_functions_that_format(tmp_path: Path) -> None:
    code = """
pd.set_option('display.float_format', lambda x: f'{x:.1f}')
np.set_printoptions(formatter={'float': '{:.1f}'.format, 'int': hex})
"""
    show = "result = [pd.get_option('display.float_format') is None, str(np.array([1 / 3])), str(np.array([16]))]"
    result = carry(tmp_path, "import numpy as np, pandas as pd", code, show)
    assert result.there == [False, "[0.3]", "[0x10]"]
    assert result.here == [True, "[0.3]", "[16]"]
    assert [sentence.partition(",")[0] for sentence in result.messages] == [
        "numpy's formatter of int was the function hex",
        "pandas' option display.float_format was the function <lambda>",
    ]


def test_sklearn(tmp_path: Path) -> None:
    code = "sklearn.set_config(display='text', transform_output='pandas', working_memory=64)"
    environ = {"SKLEARN_ASSUME_FINITE": "1"}
    result = carry(tmp_path, "import sklearn", code, "result = sklearn.get_config()", environ=environ)
    assert result.here == result.there
    assert result.options["sklearn"] == {"display": "text", "transform_output": "pandas", "working_memory": 64}
    assert result.messages == []

from __future__ import annotations

import pytest

from qcity_nb.cells.tags import check_tags, installs, is_once, is_rerun, skips_snapshot


@pytest.mark.parametrize(
    "source",
    [
        "%pip install numpy",
        "import x\n%pip install -q numpy",
        "% pip install numpy",
        "%conda install -y numpy",
        "%mamba install numpy",
        "%uv pip install numpy",
        "!pip install numpy",
        "! pip3 install numpy",
        "!pip --quiet install numpy",
        "!pip -q install numpy",
        "!/usr/bin/pip3.11 install numpy",
        "!python -m pip install numpy",
        "!python3.11 -I -m pip install numpy",
        "!{sys.executable} -m pip install numpy",
        "!$sys.executable -m pip install numpy",
        '!"{sys.executable}" -m pip install numpy',
        "!{ sys.executable } -m pip install -r requirements.txt",
        "!uv pip install --system numpy",
        "!uv add numpy",
        "!conda install numpy",
        "!mamba install -c conda-forge numpy",
        "!micromamba install numpy",
        "!cd lib && pip install -e .",
        "!PIP_QUIET=1 pip install numpy",
        "!sudo apt-get install -y graphviz",
        "!apt-get -qq install -y graphviz",
        "!apt update && apt install -y graphviz",
        "out = !pip install numpy",
        "!!pip install numpy",
        "if IN_COLAB:\n    !pip install numpy",
        "if IN_COLAB:\n    %pip install numpy",
        "pip install numpy",
        "%%bash\nset -e\npip install numpy",
        "%%bash\npip \\\n  install numpy",
        "%%sh\ncd x; pip install numpy",
        "%%script bash\npip install numpy",
        "%%capture\n!pip install numpy",
        "%%capture out\n%pip install numpy",
        "%%time\n%%bash\npip install numpy",
        "\n%%bash\npip install numpy",
        "!pip uninstall -y numpy",
    ],
)
def test_installs(source: str) -> None:
    assert installs(source)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "import pip",
        "x = 'pip install numpy'",
        "print('!pip install numpy')",
        "# !pip install numpy",
        "#%pip install numpy",
        "!pip list",
        "!pip --version",
        "!echo pip install numpy",
        "%%bash\n# pip install numpy\nls",
        "%%writefile setup.sh\npip install numpy",
        "%%bash\necho install",
        "!conda env list",
        "pipeline = install(x)",
        "a != pip",
        "%%html\n<p>pip install numpy</p>",
        "!cat pip install",
    ],
)
def test_installs_nothing(source: str) -> None:
    assert not installs(source)


def test_tags() -> None:
    assert is_rerun(["a", "qcity-rerun"])
    assert not is_rerun(["qcity-once", "rerun"])
    assert is_once(["qcity-once"])
    assert not is_once([])
    assert skips_snapshot(["qcity-skip-snapshot"])
    assert not skips_snapshot(["qcity-skip"])


@pytest.mark.parametrize("tag", ["qcity-skip", "qcity-Rerun", "QCITY-rerun", "qcity_rerun", "qcity-once ", "qcity-"])
def test_a_typing_error_is_reported(tag: str) -> None:
    assert tag in check_tags(["parameters", tag])


def test_known_tags_and_others_are_fine() -> None:
    assert not check_tags(["qcity-once", "qcity-skip-snapshot", "parameters", "qcity", "my-tag"])


def test_tags_that_contradict() -> None:
    assert "both" in check_tags(["qcity-once", "qcity-rerun"])

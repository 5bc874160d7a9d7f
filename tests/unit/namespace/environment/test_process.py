from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcity_nb import codec
from qcity_nb.namespace.environment.process import ProcessSettings, Surroundings, is_allowed, looks_secret


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    here = tmp_path / "project"
    here.mkdir()
    monkeypatch.chdir(here)
    yield here
    os.chdir(tmp_path)


def carried(surroundings: Surroundings) -> Surroundings:
    return codec.loads(Surroundings, codec.dumps(surroundings))


def test_nothing_changed(root: Path) -> None:
    process_settings = ProcessSettings(root, {"HOME": "/root", "TZ": "UTC"})
    surroundings = carried(process_settings.look())
    assert surroundings.cwd == "."
    assert (surroundings.path, surroundings.environ) == ((), {})
    assert process_settings.put(surroundings) == []


def test_a_directory_below_the_root_is_made_elsewhere(root: Path, tmp_path: Path) -> None:
    process_settings = ProcessSettings(root, {})
    (root / "data" / "deep").mkdir(parents=True)
    os.chdir(root / "data" / "deep")
    surroundings = carried(process_settings.look())
    assert surroundings.cwd == "data/deep"
    other = tmp_path / "other"
    other.mkdir()
    assert ProcessSettings(other, {}).put(surroundings) == []
    assert Path.cwd() == (other / "data" / "deep").resolve()


def test_a_directory_elsewhere_is_never_made(root: Path, tmp_path: Path) -> None:
    gone = tmp_path / "scratch"
    gone.mkdir()
    os.chdir(gone)
    process_settings = ProcessSettings(root, {})
    surroundings = carried(process_settings.look())
    os.chdir(root)
    gone.rmdir()
    (sentence,) = process_settings.put(surroundings)
    assert str(gone) in sentence
    assert not gone.exists()
    assert Path.cwd() == root


@pytest.mark.parametrize("cwd", ["../outside", "data/../../outside"])
def test_no_directory_is_made_above_the_root(root: Path, cwd: str) -> None:
    (sentence,) = ProcessSettings(root, {}).put(Surroundings(cwd=cwd))
    assert "outside" in sentence
    assert not (root.parent / "outside").exists()


def test_a_removed_directory_is_not_known(root: Path) -> None:
    process_settings = ProcessSettings(root, {})
    (root / "gone").mkdir()
    os.chdir(root / "gone")
    (root / "gone").rmdir()
    assert process_settings.look().cwd == ""
    assert process_settings.put(Surroundings()) == []


def test_the_import_path_keeps_its_order(root: Path, tmp_path: Path) -> None:
    process_settings = ProcessSettings(root, {})
    start = list(sys.path)
    (root / "lib").mkdir()
    (root / "more").mkdir()
    sys.path.insert(0, str(root / "lib"))
    sys.path.append("more")
    sys.path.append(str(tmp_path / "far"))
    surroundings = carried(process_settings.look())
    assert (surroundings.path, surroundings.path_first) == (("lib", "more", str(tmp_path / "far")), 1)
    sys.path[:] = start
    (sentence,) = process_settings.put(surroundings)
    assert str(tmp_path / "far") in sentence
    assert sys.path == [str(root / "lib"), *start, str(root / "more"), str(tmp_path / "far")]
    process_settings.put(surroundings)
    assert len(sys.path) == len(start) + 3


def test_only_allowed_changes_of_the_environment_come_along(root: Path) -> None:
    environ = {"OMP_NUM_THREADS": "8", "TZ": "UTC", "LANG": "C", "EDITOR": "vi"}
    process_settings = ProcessSettings(root, environ)
    environ.update({"OMP_NUM_THREADS": "2", "EDITOR": "ed", "MY_FLAG": "1", "TF_CPP_MIN_LOG_LEVEL": "3"})
    del environ["LANG"]
    surroundings = carried(process_settings.look())
    assert surroundings.environ == {"OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3", "LANG": None}
    there = {"LANG": "de", "TZ": "CET"}
    assert ProcessSettings(root, there).put(surroundings) == []
    assert there == {"OMP_NUM_THREADS": "2", "TF_CPP_MIN_LOG_LEVEL": "3", "TZ": "CET"}


SECRETS = [
    "hf_abcdefGHIJKL",
    "sk-proj-abcdefgh",
    "sk-abcdefghijk",
    "ghp_abcdefghijklmnop",
    "github_pat_11ABC",
    "glpat-abcdefgh",
    "xoxb-1-2",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyabcdefgh",
    "eyJhbGciOiJIUzI1NiJ9.e30.x",
    "https://user:password@example.org/x",
    "https://abcdef@example.org",
    "postgresql://u:p@h/db",
    "--flag=1 --header=Bearer abcdef12",
    "a=1;AccountKey=abc",
    "password=hunter2",
    "api_key: abc",
    '{"token": "x"}',
    "https://host/x?X-Amz-Signature=abc",
    "0123456789abcdef0123456789abcdef",
    "wJalrXUtnFEMI7K7MDENGbPxRfiCYEXAMPLEKEY1",
    "-----BEGIN RSA PRIVATE KEY-----",
    "nvapi-abcdefg",
    "x hf_abcdefGHIJKL y",
    "a" * 5000,
]
SECRET_NAMES = [
    *("JAX_TOKEN", "TF_API_KEY", "TORCH_SECRET", "MKL_PASSWORD", "OMP_CREDENTIALS", "TF_AUTH", "JAX_APIKEY"),
    *("TORCH_HUB_TOKEN", "JAX_KEY", "TF_ACCESS_KEY_ID", "LC_PAT", "jax_token", "TORCH_PASSPHRASE", "TF_PRIVATE_PEM"),
    *("JAX_TOKENS", "TF_TOKENIZER_TOKEN"),
]


@pytest.mark.parametrize("value", SECRETS)
def test_a_secret_value_never_comes_along(root: Path, value: str) -> None:
    environ = {"TZ": "UTC"}
    process_settings = ProcessSettings(root, environ)
    environ.update({"XLA_FLAGS": value, "TZ": value, "TF_X": f"a {value}"})
    assert value not in codec.dumps(process_settings.look()).decode()
    assert process_settings.look().environ == {}
    (sentence,) = process_settings.put(Surroundings(environ={"XLA_FLAGS": value}))
    assert value not in sentence


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_name_never_comes_along(root: Path, name: str) -> None:
    environ: dict[str, str] = {}
    process_settings = ProcessSettings(root, environ)
    environ[name] = "1"
    assert process_settings.look().environ == {}
    assert process_settings.put(Surroundings(environ={name: "1"}))


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "QCITY_STORE"]
)
def test_what_is_not_on_the_list_is_not_put_either(root: Path, name: str) -> None:
    environ: dict[str, str] = {}
    assert not is_allowed(name)
    (sentence,) = ProcessSettings(root, environ).put(Surroundings(environ={name: "x"}))
    assert name in sentence
    assert not environ


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_NUM_THREADS", "2"),
        ("MKL_NUM_THREADS", "2"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8f1c2d3e,1"),
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_gpu_deterministic_ops=true"),
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512,expandable_segments:True"),
        ("TZ", "America/Argentina/ComodRivadavia"),
        ("LC_ALL", "de_DE.UTF-8"),
        ("MPLBACKEND", "module://matplotlib_inline.backend_inline"),
        ("TF_GPU_ALLOCATOR", "cuda_malloc_async"),
        ("TORCH_HOME", "/home/me/.cache/torch/Version2/abcDEF"),
        ("JAX_COMPILATION_CACHE_DIR", "/tmp/jax"),
        ("PYTHONHASHSEED", "0"),
    ],
)
def test_harmless_variables_come_along(root: Path, name: str, value: str) -> None:
    assert not looks_secret(name, value)
    environ: dict[str, str] = {}
    process_settings = ProcessSettings(root, environ)
    environ[name] = value
    assert process_settings.look().environ == {name: value}


def test_libraries_are_set_once_the_variables_are_there(root: Path) -> None:
    numpy = pytest.importorskip("numpy")
    pytest.importorskip("pandas")
    process_settings = ProcessSettings(root, {})
    with numpy.printoptions(precision=3, threshold=float("inf")), numpy.errstate(under="raise"):
        surroundings = carried(process_settings.look())
    assert surroundings.numpy == {"precision": 3, "threshold": float("inf")}
    assert surroundings.options["numpy.seterr"] == {"under": "raise"}
    assert not {"matplotlib", "numpy", "pandas"} & surroundings.options.keys()
    with numpy.printoptions(), numpy.errstate():
        assert process_settings.put(surroundings) == []
        assert numpy.get_printoptions()["precision"] == 8
        assert process_settings.finish_restore() == []
        assert numpy.get_printoptions()["precision"] == 3
        assert numpy.geterr()["under"] == "raise"


def test_records_of_other_versions(root: Path) -> None:
    """One from before there were options, and one of a version that knows a library more."""
    pytest.importorskip("numpy")
    old = codec.decode(Surroundings, {"cwd": ".", "numpy": {"edgeitems": 3}})
    new = codec.decode(Surroundings, {"options": {"no.such": {"a": 1}, "python": {"no_such": 1}}, "more": 7})
    assert new.extra == {"more": 7}
    process_settings = ProcessSettings(root, {})
    assert process_settings.put(old) == []
    assert process_settings.finish_restore() == []
    process_settings.put(new)
    (sentence,) = process_settings.finish_restore()
    assert "no_such" in sentence


def test_calls_may_go_as_deep_before_the_variables_come(root: Path) -> None:
    limit = sys.getrecursionlimit()
    process_settings = ProcessSettings(root, {})
    try:
        sys.setrecursionlimit(limit + 500)
        surroundings = carried(process_settings.look())
        sys.setrecursionlimit(limit)
        process_settings.put(surroundings)
        assert sys.getrecursionlimit() == limit + 500
        process_settings.put(Surroundings(options={"python": {"recursion_limit": limit - 50}}))
        assert sys.getrecursionlimit() == limit + 500
        process_settings.finish_restore()
        assert sys.getrecursionlimit() == limit - 50
    finally:
        sys.setrecursionlimit(limit)


def test_an_option_that_is_not_known_here_is_reported(root: Path) -> None:
    pytest.importorskip("matplotlib")
    process_settings = ProcessSettings(root, {})
    process_settings.put(Surroundings(matplotlib={"no.such": 1}))
    (sentence,) = process_settings.finish_restore()
    assert "no.such" in sentence

"""Settings: ranges, types, files, and errors that say where."""

from dataclasses import dataclass

import pytest

from spikeloom import runs
from spikeloom.runs.settings import metadata


@dataclass(frozen=True, kw_only=True)
class Mine(runs.Config):
    """A recipe's own settings."""

    epochs: int = 3
    T: int = runs.option(4, "steps", minimum=1, maximum=100)
    code: str = runs.option("rate", "coding", choices=("rate", "latency"))
    net: str = runs.option("vgg5", "network", names=lambda: ["vgg5", "vgg9", "resnet18"])


def test_defaults_and_what_a_subclass_inherits():
    config = Mine()
    assert (config.epochs, config.T, config.lr, config.subset) == (3, 4, 1e-3, None)
    assert metadata(Mine, "epochs")["minimum"] == 1  # another default, the base's limits
    assert Mine(lr=1).lr == 1.0  # a whole number is a number
    assert isinstance(Mine(lr=1).lr, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(epochs=0), "epochs must be at least 1, got 0"),
        (dict(T=101), "T must be at most 100, got 101"),
        (dict(lr=0.0), "lr must be more than 0, got 0.0"),
        (dict(T=4.0), "T must be a whole number, got 4.0"),
        (dict(T=True), "T must be a whole number, got True"),
        (dict(T="4"), "T must be a whole number, got '4'"),
        (dict(lr="fast"), "lr must be a number, got 'fast'"),
        (dict(lr=float("nan")), "lr must be finite, got nan"),
        (dict(code="latncy"), "code must be one of rate, latency, got 'latncy'; did you mean 'latency'?"),
        (dict(amp=16), "amp must be text, got 16"),
        (dict(net="vgg6"), "net has no 'vgg6'; the nearest are vgg9, vgg5"),
        (dict(net="zebra"), "net has no 'zebra'"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(runs.ConfigError) as problem:
        Mine(**values)
    assert str(problem.value) == message


def test_files(tmp_path):
    toml, yaml = tmp_path / "a.toml", tmp_path / "a.yaml"
    toml.write_text('recipe = "x"\nbatch-size = 8\nlr = 1e-3\n')
    assert runs.read_file(toml) == {"recipe": "x", "batch_size": 8, "lr": 1e-3}
    pytest.importorskip("yaml", reason="the extra 'cli' is not installed")
    yaml.write_text("recipe: x\nbatch-size: 8\nlr: 1e-3\n")
    values = runs.read_file(yaml)
    assert values["batch_size"] == 8
    assert Mine(lr=values["lr"]).lr == 1e-3  # which YAML 1.1 reads as text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "epochs = ", "a.toml: not valid TOML: Invalid value"),
        ("a.yaml", "a: 'x", "a.yaml: not valid YAML: line 1, column 6: found unexpected end of stream"),
        ("a.yaml", "- 1\n- 2", "a.yaml: expected names with values, got list"),
        ("a.toml", "[optimiser]\nlr = 1", "a.toml: optimiser is a table; settings stand at the top level"),
        ("a.json", "{}", "a config file ends in .toml, .yaml or .yml"),
    ],
)
def test_wrong_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(runs.ConfigError, match=message):
        runs.read_file(tmp_path / name)
    with pytest.raises(runs.ConfigError, match=r"none\.toml: cannot be read"):
        runs.read_file(tmp_path / "none.toml")


def test_an_unknown_name_gets_the_nearest():
    own, machine = runs.split({"epochs": 2, "workers": 1}, Mine, runs.Machine, where="a.toml")
    assert (own, machine) == ({"epochs": 2}, {"workers": 1})
    with pytest.raises(runs.ConfigError, match=r"a\.toml: there is no setting 'epoch'; did you mean 'epochs'\?"):
        runs.split({"epoch": 2}, Mine, runs.Machine, where="a.toml")
    with pytest.raises(runs.ConfigError, match="there is no setting 'zzz'; there are T, amp, backend, "):
        runs.split({"zzz": 2}, Mine, runs.Machine, where="a.toml")


def test_toml_round_trip(tmp_path):
    values = {"recipe": 'say "a\\b"\n', "lr": 1e-05, "big": 1e16, "epochs": 3, "none": None, "flag": True, "text": "ü"}
    (tmp_path / "a.toml").write_text(runs.to_toml(values))
    assert runs.read_file(tmp_path / "a.toml") == {k: v for k, v in values.items() if v is not None}

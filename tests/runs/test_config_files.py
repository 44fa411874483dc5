"""Config files of every kind of nonsense: a sentence that says where, in no time, and never a traceback."""

import json
import os
import time

import pytest

from spikeloom import runs
from spikeloom.runs import files
from spikeloom.runs.config_file import MOST

yaml = pytest.importorskip("yaml", reason="the extra 'cli' is not installed")


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return runs.Config(**runs.read_file(path))


DEEP = "[" * 6000
LAUGHS = "a: &a [x,x]\n" + "\n".join(f"{c}: &{c} [*{b},*{b},*{b}]" for b, c in zip("abcdefgh", "bcdefghi", strict=True))
WRONG = [
    ("a.toml", "epochs = 3\nepochs = 4", "a name is given twice"),
    ("a.toml", "[epochs]\n[epochs]\n", "not valid TOML"),
    ("a.toml", "batch_size = 3\nbatch-size = 3", "batch-size and batch_size are the same setting; give it once"),
    ("a.toml", "lr = inf", "lr must be finite, got inf"),
    ("a.toml", "lr = -inf", "lr must be finite, got -inf"),
    ("a.toml", "validation = nan", "validation must be finite, got nan"),
    ("a.toml", "lr = 1e400", "lr must be finite, got inf"),
    ("a.toml", f"lr = {'7' * 400}", "lr must be finite, got inf"),
    ("a.toml", "lr = 1e30", r"lr must be at most 1000000\.0, got 1e\+30"),
    ("a.toml", 'lr = "1e-3"', "lr must be a number, got '1e-3'"),
    ("a.toml", f"epochs = {DEEP}", "brackets are nested too deeply"),
    ("a.toml", f"epochs = {'{a = ' * 3000}", "brackets are nested too deeply"),
    ("a.toml", ".".join("a" * 7000) + " = 1", "a is a table; settings stand at the top level"),
    ("a.toml", "epochs = [3]", "epochs is a list; a setting has one value"),
    ("a.toml", f"epochs = {'7' * 4000}", "at most 9223372036854775807, got a whole number of about 3,9.. digits"),
    ("a.toml", f"epochs = {'7' * 5000}", "a whole number has too many digits"),
    ("a.toml", "epochs = 2024-11-30", "epochs is a date or time, 2024-11-30; write text in quotes"),
    ("a.toml", "epochs = 2024-13-41", "not valid TOML"),
    ("a.toml", "seed = 18446744073709551616", "seed must be at most 18446744073709551615, got 18446744073709551616"),
    ("a.toml", "seed = -1", "seed must be at least 0, got -1"),
    ("a.toml", "batch_size = 9223372036854775808", "batch_size must be at most 9223372036854775807"),
    ("a.toml", "epochs = false", "epochs must be a whole number, got False"),
    ("a.toml", f"amp = '{'o' * 9000}'", r"amp must be one of off, bfloat16, float16, got 'o{30,40}\.\.\.o{30,40}'$"),
    ("a.toml", "epochs = 3\0", "not valid TOML"),
    ("a.toml", b'amp = "\xe9"', "byte 7 is not UTF-8; save it as UTF-8"),
    ("a.yaml", "epochs: 3".encode("utf-16"), "byte 0 is not UTF-8; save it as UTF-8"),
    ("a.toml", "#" * (MOST + 1), "is larger than 16 KiB; a config file names settings, one a line"),
    ("a.yaml", "epochs: 3\nepochs: 4", "epochs is given twice; give it once"),
    ("a.yaml", "epochs: 3\n'epochs': 3", "epochs is given twice; give it once"),
    ("a.yaml", "batch-size: 3\nbatch_size: 4", "batch_size and batch-size are the same setting"),
    ("a.yaml", "lr: .inf", "lr must be finite, got inf"),
    ("a.yaml", "lr: -.INF", "lr must be finite, got -inf"),
    ("a.yaml", "lr: .NaN", "lr must be finite, got nan"),
    ("a.yaml", "lr: inf", "lr must be a number, got 'inf'"),
    ("a.yaml", LAUGHS, "a has an anchor or an alias"),
    ("a.yaml", "epochs: &a 3\nseed: *a", "epochs has an anchor or an alias"),
    ("a.yaml", "epochs: *a", "epochs has an anchor or an alias"),
    ("a.yaml", "<<: {epochs: 3}", r"line 1: a name is a word; lists, aliases \(\*\) and merges \(<<\) are none"),
    ("a.yaml", "? [epochs]\n: 3", "line 1: a name is a word"),
    ("a.yaml", f"epochs: {DEEP}", "epochs is a list; a setting has one value"),
    ("a.yaml", f"epochs: {'{a: ' * 3000}", "epochs is a table"),
    ("a.yaml", DEEP, "expected names with values, got list"),
    ("a.yaml", "words", "expected names with values, got text"),
    ("a.yaml", "epochs: !!python/object/apply:os.getcwd []", "epochs has a tag, 'tag:yaml.org,2002:python/object"),
    ("a.yaml", "epochs: !!int 3", "epochs has a tag"),
    ("a.yaml", "amp: !!binary aGk=", "amp has a tag"),
    ("a.yaml", "!!omap [epochs: 3]", "expected names with values, got list"),
    ("a.yaml", "epochs: 3\n---\nepochs: 4", r"holds several documents \(---\); a config file is one"),
    ("a.yaml", "epochs: 3\nlr: off", "line 2: lr: 'off' is true or false in YAML 1.1 and text in YAML 1.2; write true"),
    ("a.yaml", "amp: off", "'off' is true or false in YAML 1.1"),
    ("a.yaml", "amp: No", "'No' is true or false in YAML 1.1"),
    ("a.yaml", "epochs: 010", "'010' begins with 0"),
    ("a.yaml", "epochs: 09", "'09' is text in YAML 1.1 and a whole number in YAML 1.2"),
    ("a.yaml", "epochs: 0o7", "'0o7' is text in YAML 1.1 and a whole number in YAML 1.2"),
    ("a.yaml", "epochs: 0b1", "'0b1' is a whole number in YAML 1.1 and text in YAML 1.2"),
    ("a.yaml", "epochs: 1_000", "'1_000' is a whole number in YAML 1.1 and text in YAML 1.2"),
    ("a.yaml", "lr: 1:30.0", "'1:30.0' is a number in YAML 1.1 and text in YAML 1.2"),
    ("a.yaml", "epochs: 2:05", "'2:05' is a whole number in YAML 1.1"),
    ("a.yaml", "epochs: 2024-11-30", "'2024-11-30' is a timestamp in YAML 1.1 and text in YAML 1.2"),
    ("a.yaml", "epochs: 2024-11-30 10:20:30", "is a timestamp in YAML 1.1"),
    ("a.yaml", "epochs: =", "'=' is a value in YAML 1.1"),
    ("a.yaml", f"epochs: {'7' * 5000}", "epochs is a whole number of 5,000 digits, which is too large"),
    ("a.yaml", "epochs:", "epochs must be a whole number, got None"),
    ("a.yaml", "epochs: '3'", "epochs must be a whole number, got '3'"),
    ("a.yaml", 'amp: "\\U00110000"', "not valid YAML: chr"),
    ("a.yaml", "epochs: 3\0", "not valid YAML: unacceptable character #x0000"),
    ("a.yaml", "\tepochs: 3", "not valid YAML: line 1, column 1: found character"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG)
def test_a_sentence(tmp_path, name, content, message):
    begun = time.monotonic()
    with pytest.raises(runs.ConfigError, match=message) as problem:
        read(tmp_path, name, content)
    said = str(problem.value)
    assert len(said) < 400
    assert "\n" not in said
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", {}),
        ("# nothing", {}),
        ("{epochs: 3, lr: 2}", dict(epochs=3, lr=2.0)),
        ("epochs: 3 # three\n'lr': 1e-3\namp: 'off'", dict(epochs=3, lr=1e-3)),
        ("--- \nepochs: +3\n...\n", dict(epochs=3)),
        ("%YAML 1.2\n---\nlr: 1.5E2", dict(lr=150.0)),
        ("\ufeffepochs: 0x1f", dict(epochs=31)),
        ("lr: .5\nvalidation: 0.\nsubset: ~", dict(lr=0.5)),
        ("subset: null\nseed: 18446744073709551615", dict(seed=2**64 - 1)),
        ("? epochs\n: 3\nbatch-size: 7", dict(epochs=3, batch_size=7)),
        ("amp: >-\n  bfloat16\n", dict(amp="bfloat16")),
    ],
)
def test_yaml_that_means_one_thing(tmp_path, content, expected):
    """What YAML 1.1 and 1.2 both read so."""
    assert read(tmp_path, "a.yaml", content) == runs.Config(**expected)


def test_toml_with_a_mark_and_both_spellings(tmp_path):
    assert read(tmp_path, "a.toml", "\ufeffbatch-size = 7\nlr = 2") == runs.Config(batch_size=7, lr=2.0)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("folder.toml", "loop.yaml", "zero.yaml", "pipe.toml", "none.toml", "x" * 500 + ".toml"):
        with pytest.raises(runs.ConfigError, match="cannot be read: "):
            runs.read_file(tmp_path / name)


def test_text_that_is_none(tmp_path):
    """A folder's name may hold bytes that are no text; a NUL it cannot hold."""
    with pytest.raises(runs.ConfigError, match="data_root must be text without NUL characters"):
        runs.Machine(data_root="a\0b")
    files.write_json(tmp_path / "a.json", {"data_root": "a\udcffü"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"data_root": "a\udcffü"}

"""Runs that can be stopped, continued and repeated, around a plain training loop.

A run folder holds ``config.toml`` (settings and seed), ``environment.json`` (versions, processor, threads, git, data
folder), ``git.diff``, ``split.json`` (which samples were where), ``metrics.jsonl`` and ``metrics.csv`` (a row for each
epoch), ``checkpoint.pt``, and in the end ``weights.safetensors`` and ``result.json``.
"""

from .baseline import linear_baseline
from .checkpoint import CheckpointError
from .checkpoint import load as load_checkpoint
from .config_file import read_file
from .environment import commit, processor, versions
from .files import WriteError, write_json, write_picture
from .folder import CHECKPOINT, CONFIG, RESULT, WEIGHTS
from .measure import Confusion, Measures, accuracy, average
from .pictures import confusion as confusion_picture
from .processes import choose_device, unwrap
from .progress import choose as choose_progress
from .run import Run
from .settings import Config, ConfigError, Machine, Settings, UserError, option, split, to_toml
from .stop import Stopped
from .trained import Trained, load

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "RESULT",
    "WEIGHTS",
    "CheckpointError",
    "Config",
    "ConfigError",
    "Confusion",
    "Machine",
    "Measures",
    "Run",
    "Settings",
    "Stopped",
    "Trained",
    "UserError",
    "WriteError",
    "accuracy",
    "average",
    "choose_device",
    "choose_progress",
    "commit",
    "confusion_picture",
    "linear_baseline",
    "load",
    "load_checkpoint",
    "option",
    "processor",
    "read_file",
    "split",
    "to_toml",
    "unwrap",
    "versions",
    "write_json",
    "write_picture",
]

"""Empty packages torchvision and torchaudio for the peers' environment: SpikingJelly's data sets and models import
them, and what is compared uses neither. Run it with that environment's Python."""

from pathlib import Path
from sysconfig import get_path

ANYTHING = '''"""Stands for a package that is not needed: every name is a class that does nothing."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
'''

if __name__ == "__main__":
    for module in ("torchvision", "torchvision/datasets", "torchaudio", "torchaudio/transforms"):
        folder = Path(get_path("purelib"), module)
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(ANYTHING)
    for file in ("torchvision/datasets/utils.py", "torchvision/_internally_replaced_utils.py"):
        Path(get_path("purelib"), file).write_text(ANYTHING)

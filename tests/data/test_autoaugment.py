"""AutoAugment's operations against Pillow's, which the paper's are, and by hand."""

import numpy as np
import pytest
import torch

from spikeloom import data
from spikeloom.data import autoaugment
from spikeloom.data.autoaugment import operate

image = pytest.importorskip("PIL.Image")


def picture(seed=0, size=(20, 24)):
    draw = np.random.default_rng(seed)
    smooth = np.cumsum(draw.integers(-9, 10, (*size, 3)), 1) + 120
    return torch.from_numpy(np.clip(smooth, 10, 230).astype(np.uint8)).permute(2, 0, 1).contiguous()


def pillow(x):
    return image.fromarray(x.permute(1, 2, 0).numpy())


def back(p):
    return torch.from_numpy(np.array(p)).permute(2, 0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_pillows(seed):
    from PIL import ImageEnhance, ImageOps

    x = picture(seed)
    for name, enhance in (
        ("Brightness", ImageEnhance.Brightness), ("Color", ImageEnhance.Color), ("Contrast", ImageEnhance.Contrast),
        ("Sharpness", ImageEnhance.Sharpness),
    ):  # fmt: skip
        for sign in (1, -1):
            for strength in (0.0, 0.3, 1.0):
                found = operate(x, name, strength, sign=sign)
                wanted = back(enhance(pillow(x)).enhance(1 + 0.9 * sign * strength))
                assert (found.int() - wanted.int()).abs().max() <= 2, name  # Pillow rounds its greys to integers
                assert (found == wanted).float().mean() > 0.7, name
    assert torch.equal(operate(x, "Invert", 0), back(ImageOps.invert(pillow(x))))
    assert torch.equal(operate(x, "Equalize", 0), back(ImageOps.equalize(pillow(x))))
    assert (operate(x, "AutoContrast", 0).int() - back(ImageOps.autocontrast(pillow(x))).int()).abs().max() <= 1
    for strength, bits in ((0.0, 8), (0.5, 6), (1.0, 4)):
        assert torch.equal(operate(x, "Posterize", strength), back(ImageOps.posterize(pillow(x), bits)))
    for strength, threshold in ((0.0, 255), (1.0, 0), (0.2, 204)):
        assert torch.equal(operate(x, "Solarize", strength), back(ImageOps.solarize(pillow(x), threshold)))


def test_places_by_hand():
    x = torch.zeros(1, 5, 5, dtype=torch.uint8)
    x[0, 2, 3] = 200  # right of the middle
    moved = operate(x, "TranslateX", 1.0, fill=7)  # from 150 / 331 * 5, that is 2, to the right of each pixel
    assert moved[0, 2].tolist() == [0, 200, 0, 7, 7]
    assert operate(x, "TranslateY", 1.0, sign=-1, fill=7)[0, :, 3].tolist() == [7, 7, 0, 0, 200]
    for name in ("Rotate", "ShearX", "ShearY", "TranslateX"):
        assert torch.equal(operate(x, name, 0.0), x)
    turned = operate(picture(size=(31, 31)), "Rotate", 1.0, sign=-1)
    from PIL.Image import Resampling

    wanted = back(pillow(picture(size=(31, 31))).rotate(30, Resampling.NEAREST, fillcolor=(128,) * 3))
    assert (turned == wanted).float().mean() > 0.9


def test_policy():
    assert len(autoaugment._PAIRS) == 25
    x = picture()
    augment = data.transforms.AutoAugment()
    torch.manual_seed(0)
    made = [augment(x) for _ in range(200)]
    assert all(m.dtype == torch.uint8 and m.shape == x.shape for m in made)
    assert 20 < sum(torch.equal(m, x) for m in made) < 120
    assert augment(x[:1]).shape == (1, 20, 24)
    names = {n for pair in autoaugment._PAIRS for n in (pair[0], pair[3])}
    assert len(names) == 14 - 1  # all but ShearX, which the pairs for CIFAR-10 do not use
    with pytest.raises(ValueError, match="expected uint8"):
        augment(x.float())
    with pytest.raises(ValueError, match="no operation 'Melt'"):
        operate(x, "Melt", 1.0)

"""Products of spikes: by hand, exact in both orders and under autocast, and their gradients."""

import pytest
import torch

from spikeloom.nn import attention_products as products


def test_products_by_hand():
    """One head, two channels, three tokens: v k^T is [[1, 1], [1, 2]]."""
    q, k, v = (
        torch.tensor(one, dtype=torch.float32)[None, None]
        for one in ([[1, 1, 0], [0, 1, 0]], [[1, 0, 1], [0, 1, 1]], [[1, 1, 0], [0, 1, 1]])
    )
    assert products.products(q, k, v)[0, 0].tolist() == [[1, 2, 0], [1, 3, 0]]


def test_the_cheaper_order():
    """(v k^T) q takes 2 N d^2 multiplications a head, v (k^T q) 2 N^2 d."""
    assert products.channels_first(64, 64, 196)
    assert not products.channels_first(64, 64, 49)
    assert products.channels_first(64, 256, 110)  # 2 * 64 * 256 < 110 * 320
    assert not products.channels_first(64, 256, 102)


@pytest.mark.parametrize(("d", "N"), [(8, 1024), (64, 196), (64, 49)])
def test_both_orders_are_exact(d, N, monkeypatch):
    q, k, v = ((torch.rand(2, 2, d, N) < 0.5).float() for _ in range(3))
    wanted = torch.einsum("rhen,rhdn,rhdm->rhem", v.double(), k.double(), q.double())
    for order in (True, False):
        monkeypatch.setattr(products, "channels_first", lambda *sizes, order=order: order)
        assert torch.equal(products.products(q, k, v).double(), wanted)
        small = [z.bfloat16() for z in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16):
            y = products.products(*small)
            plain = (small[2] @ small[1].transpose(-1, -2)) @ small[0]
        assert y.dtype == torch.float32
        assert torch.equal(y.double(), wanted)
        assert plain.double().ne(wanted).double().mean() > 0.5  # what autocast would give


@pytest.mark.parametrize("order", [True, False])
def test_gradients_of_products(order, monkeypatch):
    monkeypatch.setattr(products, "channels_first", lambda *sizes: order)
    q, k, v = (torch.randn(2, 2, d, 5, dtype=torch.float64, requires_grad=True) for d in (3, 3, 4))
    assert torch.autograd.gradcheck(products.products, (q, k, v))
    assert torch.autograd.gradgradcheck(products.products, (q, k, v))


def test_dtypes_of_products():
    """Whole numbers up to 2048 are exact in float16, which is worth it on a GPU."""
    dtype = products.dtype_of_products
    assert dtype(torch.float16, "cuda", 2048) == torch.float16
    assert dtype(torch.float16, "cuda", 2049) == dtype(torch.float16, "cpu", 10) == torch.float32
    assert dtype(torch.float16, "cuda", None) == dtype(torch.bfloat16, "cuda", 10) == torch.float32
    assert dtype(torch.float64, "cuda", 10) == torch.float64

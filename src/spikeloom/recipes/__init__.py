"""Training loops worth copying: plain PyTorch, one file each. ``python -m spikeloom.recipes.digits``."""

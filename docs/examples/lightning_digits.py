"""A spiking network in PyTorch Lightning: it is a module like any other, and there is nothing to reset.

pip install lightning 'spikeloom[demo]'
python docs/examples/lightning_digits.py
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

import spikeloom as sl
from spikeloom.recipes import digits


class Classifier(lightning.LightningModule):
    """The network of the recipe ``digits``."""

    def __init__(self, config: digits.Config) -> None:
        super().__init__()
        self.config, self.net = config, digits.build(config)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = sl.loss.rate_cross_entropy(self.net(images, repeat=self.config.T), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        right = digits.scores(self.net, images, self.config).argmax(1) == labels
        self.log("test_accuracy", right.float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> dict[str, Any]:
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=1e-2)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.config.lr, total_steps=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(**options: Any) -> float:
    """Trains, and returns the test accuracy."""
    config = digits.Config(**options)
    lightning.seed_everything(config.seed)
    loaders = digits.data(config, batch_size=config.batch_size, seed=config.seed)
    trainer = lightning.Trainer(max_epochs=config.epochs, logger=False, enable_checkpointing=False, accelerator="cpu")
    model = Classifier(config)
    trainer.fit(model, loaders.train)
    return float(trainer.test(model, loaders.test)[0]["test_accuracy"])


if __name__ == "__main__":
    main()

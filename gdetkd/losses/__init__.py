"""The losses of G-DetKD, in plain PyTorch: any detector can use them."""

from gdetkd.losses.contrastive import contrastive_loss

__all__ = ["contrastive_loss"]

"""Images from disk to batches."""

from agvae.configuration.data import DataConfig
from agvae.data.datamodule import ImageDataModule
from agvae.data.datasets import Batch, LatentBatch
from agvae.data.layouts import evaluation_images, list_images

__all__ = ["Batch", "DataConfig", "ImageDataModule", "LatentBatch", "evaluation_images", "list_images"]

"""steerpipe: steer single-cell foundation models with sparse autoencoder features."""

__version__ = "0.1.0"

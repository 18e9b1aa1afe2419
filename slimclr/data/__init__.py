"""The data pipeline: archives, stores, views (augmentation), loaders."""

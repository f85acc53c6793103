"""Pictures as tensors: how they are kept, read, written and augmented."""

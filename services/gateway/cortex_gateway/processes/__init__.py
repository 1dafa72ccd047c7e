"""Several processes that are one gateway: who starts them, and what they share."""

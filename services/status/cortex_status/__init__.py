"""The operator's commands: `cortex` and `cortex-status`, read from the inventory."""

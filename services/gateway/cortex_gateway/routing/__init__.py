"""Where a request goes: pure decisions over a snapshot. No I/O, no clock, no log."""

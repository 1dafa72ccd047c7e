"""`cortex-status`: what the inventory declares beside what runs.

`asking` gives an `Observed`, `drift` compares it with the `Fleet`, `document` says what that comes to, `rendering`
shows it, `command` is the program around them.
"""

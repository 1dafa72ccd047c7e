"""`cortex up`: a fleet on this machine without a service manager, until Ctrl-C."""

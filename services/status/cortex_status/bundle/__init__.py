"""`cortex bundle`: what hosts install, put together on the control machine.

target.py says what for, wheels.py has pip fetch it, source.py builds cortex itself, archive.py packs it, command.py is
the order. Hosts need no network, no pip and no compiler: roles/cortex_common installs from what lies here.
"""

"""The commands that ask a gateway's operator API: explain, load, unload, pin, unpin, drain, undrain, logs.

`options` declares them, `targets` finds the gateways and the admin key, `asking` talks to them, `commands` does what
each is for, `loading` shows how far a load is, `decision_log` reads the last decisions, `rendering` has the tables.
"""

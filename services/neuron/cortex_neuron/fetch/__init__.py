"""`cortex-neuron fetch`: the files of models, on this host before anybody asks for them.

`options` declares the command line, `report` says what came of each model, `download` fetches one, `command` runs it
all. It imports no torch. Where files are and how they come is residency.sources', so that it is as the daemon would.
"""

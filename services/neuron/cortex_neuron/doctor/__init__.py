"""`cortex doctor`: whether this host's devices can serve a tensor-parallel model, and if not, what is in the way.

`options` declares the command line, `probes` asks the driver and torch in processes of their own, `host` judges what
they say, `examination` takes the steps with a real group, `verdict` has the last words, `command` runs it all. `rank`
and `bandwidth` are what the ranks run, and with `torch_probe` the only ones here that import torch.
"""

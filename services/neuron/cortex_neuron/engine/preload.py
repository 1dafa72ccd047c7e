"""What the fork server imports once, so that a rank process starts warm; with preload_configs or preload_modules where
transformers has a part in it.

Owns: the environment that torch must find when it is imported, and the list of imports. Touches no device and runs no
parallel region: an OpenMP pool or a CUDA context does not survive a fork. Called by: multiprocessing's fork server
(`set_forkserver_preload`), and rank.py, which may also be started without one.
"""

from __future__ import annotations

import os

from cortex_serving.lasting import lasting_imports

# OpenMP threads that spin between parallel regions take the cores of everything else on the host: a step of a
# shared machine got 3 to 16 times slower. They are read once, when libgomp is loaded, hence before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# A rank reads local files only: fetching a model is the daemon's.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

with lasting_imports():
    import gguf  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tokenizers  # noqa: F401
    import torch  # noqa: F401

    import cortex_neuron.engine.rank  # noqa: F401  which imports this first, wherever it is started; 0.3 s of each start

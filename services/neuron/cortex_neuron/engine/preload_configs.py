"""What the fork server imports, besides, where a model's config is transformers' to read: half a second of each load,
if it did not.

Models that native kernels compute and whose files say nothing unusual are read without. Called by: multiprocessing's
fork server (`set_forkserver_preload`), preload_modules.
"""

from __future__ import annotations

import cortex_neuron.engine.preload  # isort: skip

from cortex_serving.lasting import lasting_imports

with lasting_imports():
    from transformers import AutoConfig  # noqa: F401

    import cortex_neuron.models.strict_config  # noqa: F401

"""What the fork server imports, besides, where transformers' modules compute: two seconds of each load, if it did not.

On a CPU the native kernels compute most models, and who needs this imports it then. Called by: multiprocessing's fork
server (`set_forkserver_preload`).
"""

from __future__ import annotations

import cortex_neuron.engine.preload_configs  # isort: skip

from cortex_serving.lasting import lasting_imports

with lasting_imports():
    import transformers.generation
    import transformers.models.llama.modeling_llama  # noqa: F401

    import cortex_neuron.models.module_loader  # noqa: F401

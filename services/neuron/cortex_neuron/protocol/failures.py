"""What a rank says is wrong: the kinds of an Error frame that are decided by us and not read off an exception.

Owns: the tree. Does not own: the kinds of faults (cortex_neuron.engine.failures) or their handling (the daemon).
Raised by: the engine's side.

    RankFailure                 engine_error                this request only
    ├── BadRequest              bad_request                 this request only
    └── CannotLoad              load_failed                 fatal, as are those below: there is no model to serve
        ├── CudaNotBuilt        cuda_feature_not_enabled    this torch was built without CUDA
        ├── CudaNotAvailable    cuda_not_available          no driver, or no device
        └── CudaDeviceNotFound  cuda_device_not_found       the host has fewer devices
"""

from __future__ import annotations


class RankFailure(Exception):
    kind = "engine_error"
    fatal = False


class BadRequest(RankFailure):
    kind = "bad_request"


class CannotLoad(RankFailure):
    kind = "load_failed"
    fatal = True


class CudaNotBuilt(CannotLoad):
    kind = "cuda_feature_not_enabled"


class CudaNotAvailable(CannotLoad):
    kind = "cuda_not_available"


class CudaDeviceNotFound(CannotLoad):
    kind = "cuda_device_not_found"

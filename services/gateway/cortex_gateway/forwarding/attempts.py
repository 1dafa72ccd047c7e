"""From a call to a neuron's answer: decide, load where needed, ask, and ask another before the first byte (case L12).

Owns: the loop over decisions, strikes for neurons that cannot be reached, and what an answer says of its neuron's
circuit. Does not own: the decision (routing), the load (loading.py), the body of the answer (stream.py, translated.py).
Called by: forwarder.py, api/inference.py (settle).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from cortex_contracts.inventory.fleet import GatewaySettings
from cortex_contracts.wire.errors import CortexError, ModelLoading, Unavailable, UpstreamBroken, UpstreamTimeout
from cortex_contracts.wire.neuron import ModelStatus
from cortex_gateway.exchange import Exchange, Outcome, Stage
from cortex_gateway.fleet.beliefs import Beliefs
from cortex_gateway.fleet.client import NeuronClient, NeuronRefused, NeuronUnreachable
from cortex_gateway.fleet.snapshot import NeuronView
from cortex_gateway.forwarding.call import Call
from cortex_gateway.forwarding.endpoints import Endpoints
from cortex_gateway.forwarding.response import CannotConnect, Response, Silent, UpstreamFailure
from cortex_gateway.forwarding.upstream import Upstream
from cortex_gateway.loading import Loads
from cortex_gateway.records.decisions import Decisions
from cortex_gateway.records.metrics import Metrics
from cortex_gateway.routing.circuit import Circuits
from cortex_gateway.routing.decide import decide, decide_loaded
from cortex_gateway.routing.decision import Forward, Reject
from cortex_gateway.routing.prefixes import Served, beginnings
from cortex_gateway.routing.rules import Ask, Rules

FOREIGN_HARNESSES = frozenset({"vllm"})  # engines that speak only OpenAI, at an address of their own
_ASK_ANOTHER = frozenset({429, 503})
_LEAVING = frozenset({"draining", "shutting_down"})  # codes of an end that was ordered, and is nobody's failure
_MOST_LOADS = 3
_NONE_LEFT = Reject(Unavailable("no other replica takes it"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A neuron's answer: a refusal (not 2xx) with its whole body, else a response whose body is still to be read."""

    response: Response
    refusal: bytes | None = None

    def close(self) -> None:
        """Nobody takes it: where it is not over, its neuron is told."""
        self.response.close()


class NeuronFailed(Exception):
    """A neuron could not be asked, or did not answer; another may be."""

    def __init__(self, error: CortexError) -> None:
        super().__init__(error.message)
        self.error = error


class Attempts:
    """Asks neurons until one answers."""

    def __init__(
        self,
        beliefs: Beliefs,
        loads: Loads,
        upstream: Upstream,
        client: NeuronClient,
        metrics: Metrics,
        decisions: Decisions,
        kick: Callable[[str], None],
    ) -> None:
        self._beliefs, self._loads, self._upstream, self._client = beliefs, loads, upstream, client
        self._metrics, self._decisions, self._kick = metrics, decisions, kick
        self._endpoints = Endpoints(client)

    async def answer(self, call: Call, exchange: Exchange, rules: Rules, settings: GatewaySettings) -> Answer:
        """The first answer that is none of "ask another"; the last refusal where all say that.

        Raises the CortexError that the client is told.
        """
        avoid: set[str] = set()
        refused: Answer | None = None
        failed: CortexError | None = None
        surprises = 0
        prompt = self._prompt(call)
        forward: Forward | None = await self._loaded(call, exchange, rules, settings, avoid, prompt)
        while forward is not None:
            neuron, answer = forward.neuron, None
            try:
                answer = await self._tried(call, exchange, neuron, rules, settings)
            except NeuronFailed as failure:
                failed = failure.error
            if answer is not None and answer.response.status not in _ASK_ANOTHER:
                if prompt:
                    rules.prefixes.remember(prompt, Served(neuron.name, neuron.models[call.model.id].loads))
                return answer
            exchange.move(Stage.WAITING)
            if answer is not None:
                refused = answer
                if surprises < _MOST_LOADS and await self._has_lost(neuron, call, exchange):
                    surprises += 1
                    forward = await self._loaded(call, exchange, rules, settings, avoid, prompt)
                    continue
            avoid.add(neuron.name)
            why = f"{neuron.name} said {answer.response.status}" if answer else f"{neuron.name} failed"
            forward = decide_loaded(self._beliefs.snapshot(), call.model, rules, _asking(call, avoid, prompt))
            self._decisions.record(call.request_id, call.model.id, forward or _NONE_LEFT, after=why)
        if refused is not None:
            return refused
        assert failed is not None
        raise failed

    def _prompt(self, call: Call) -> list[int]:
        """What its replicas are chosen by; nothing where there is no choice."""
        has_choice = len(self._beliefs.snapshot().where(call.model.id)) > 1
        return beginnings(call.model.id, call.prompt) if has_choice else []

    async def _loaded(
        self,
        call: Call,
        exchange: Exchange,
        rules: Rules,
        settings: GatewaySettings,
        avoid: set[str],
        prompt: list[int],
    ) -> Forward:
        """Where the model is loaded, once it is."""
        for _ in range(_MOST_LOADS):
            decision = decide(self._beliefs.snapshot(), call.model, rules, _asking(call, avoid, prompt))
            self._decisions.record(call.request_id, call.model.id, decision)
            if isinstance(decision, Forward):
                return decision
            if isinstance(decision, Reject):
                raise decision.error
            exchange.hold(decision.neuron.name)
            with exchange.waiting_for_load(decision.neuron.name), exchange.interruptible():
                await self._loads.until_loaded(call.model, decision, settings.cold_load_timeout_s, settings.queue_limit)
        raise ModelLoading(f"model {call.model.id!r} was unloaded again, {_MOST_LOADS} times over")

    async def _has_lost(self, neuron: NeuronView, call: Call, exchange: Exchange) -> bool:
        """Whether a neuron that has refused has the model no more: it was unloaded since the last poll."""
        try:
            with exchange.interruptible():
                row = await self._client.model(neuron.url, call.model.id)
        except (NeuronRefused, NeuronUnreachable):
            return False
        self._beliefs.learn(neuron.name, row)
        return row.status is not ModelStatus.LOADED

    async def _tried(
        self, call: Call, exchange: Exchange, neuron: NeuronView, rules: Rules, settings: GatewaySettings
    ) -> Answer:
        """`_ask`, with what comes of it for the circuit. An answer that has begun is settled when it is over."""
        seat, circuits, now = (neuron.name, call.model.id), rules.circuits, asyncio.get_running_loop().time
        circuits.sent(seat, now())
        try:
            answer = await self._ask(call, exchange, neuron, settings)
        except NeuronFailed:
            circuits.failed(seat, now())
            raise
        except BaseException:
            circuits.unsettled(seat, now())
            raise
        if answer.refusal is None:
            exchange.on_trial = True
        elif answer.response.status >= 500 and answer.response.status not in _ASK_ANOTHER:
            circuits.failed(seat, now())
        else:
            circuits.unsettled(seat, now())
        return answer

    async def _ask(self, call: Call, exchange: Exchange, neuron: NeuronView, settings: GatewaySettings) -> Answer:
        exchange.hold(neuron.name)
        exchange.move(Stage.ASKED)
        # A stream may be silent for a while. A whole answer is silent until it is done: there the poller watches.
        idle_s = settings.idle_timeout_s if call.stream else None
        headers = call.headers if exchange.trace is None else call.headers | exchange.trace.attempt(neuron.name)
        try:
            with exchange.interruptible():
                base = await self._base(call, neuron)
                response = await self._upstream.post(
                    base, call.path, call.body, headers, settings.connect_timeout_s, idle_s
                )
                if response.status < 300:
                    return Answer(response)
                refusal = await response.read()
        except UpstreamTimeout as given_up:
            self._count(exchange, "down")
            raise NeuronFailed(given_up) from given_up
        except Silent as failure:
            raise self._failed(exchange, "timeout", _silent(neuron, settings)) from failure
        except (UpstreamFailure, NeuronUnreachable) as failure:
            self._beliefs.strike(neuron.name)
            self._endpoints.forget(neuron, call.model.id)
            reason = "connect" if isinstance(failure, CannotConnect) else "lost"
            raise self._failed(exchange, reason, _unreachable(neuron, failure)) from failure
        self._endpoints.forget(neuron, call.model.id)
        self._count(exchange, f"http_{response.status}")
        if response.status in _ASK_ANOTHER:
            self._kick(neuron.name)
        return Answer(response, refusal)

    async def _base(self, call: Call, neuron: NeuronView) -> str:
        if call.model.harness not in FOREIGN_HARNESSES:
            return neuron.url
        try:
            return await self._endpoints.of(neuron, call.model.id)
        except NeuronRefused as refused:
            raise Unavailable(
                f"neuron {neuron.name}: {refused.message}", retry_after_s=refused.retry_after_s
            ) from refused

    def _failed(self, exchange: Exchange, reason: str, error: CortexError) -> NeuronFailed:
        self._count(exchange, reason)
        self._kick(exchange.neuron)
        return NeuronFailed(error)

    def _count(self, exchange: Exchange, reason: str) -> None:
        """The neuron asked last has given no answer, or one that says no."""
        self._metrics.upstream_errors.labels(exchange.neuron, reason).inc()
        if exchange.trace is not None:
            exchange.trace.attempt_failed(reason)


def settle(exchange: Exchange, circuits: Circuits) -> None:
    """What the end of an answer says of the neuron that gave it. A client that left says nothing."""
    if not exchange.on_trial:
        return
    seat, now = (exchange.neuron, exchange.model), asyncio.get_running_loop().time()
    if exchange.outcome is Outcome.OK:
        circuits.succeeded(seat)
    elif exchange.outcome in (Outcome.BROKEN, Outcome.SERVER_ERROR) and exchange.code not in _LEAVING:
        circuits.failed(seat, now)
    else:
        circuits.unsettled(seat, now)


def _asking(call: Call, avoid: set[str], prompt: list[int]) -> Ask:
    return Ask(asyncio.get_running_loop().time(), avoid, zlib.crc32(call.request_id.encode()), prompt)


def broken(neuron: str, failure: BaseException | None) -> CortexError:
    """The error of an answer that stopped in its middle."""
    reason = f": {failure}" if failure is not None and str(failure) else ""
    return UpstreamBroken(f"neuron {neuron} ended its answer before it was complete{reason}")


def idle(neuron: str, idle_timeout_s: float) -> CortexError:
    """The error of an answer that went silent."""
    return UpstreamTimeout(f"neuron {neuron} sent nothing for {idle_timeout_s:g} s")


def _silent(neuron: NeuronView, settings: GatewaySettings) -> CortexError:
    return idle(neuron.name, settings.idle_timeout_s)


def _unreachable(neuron: NeuronView, failure: BaseException) -> CortexError:
    return Unavailable(f"neuron {neuron.name} cannot be reached: {failure or type(failure).__name__}", retry_after_s=2)

"""One neuron is killed, one hangs, one is slow, under 200 streams: nobody takes a cut answer for a whole one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import pytest_asyncio
from failover_drill import HUNG, KILLED, Course, Ended, drill


@pytest_asyncio.fixture(scope="module")
async def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The drill, once for all tests here: half a minute."""
    folder: Path = tmp_path_factory.mktemp("drill")
    return await drill(folder)


async def test_no_answer_is_silently_cut(course: Course) -> None:
    """Each is complete to its last token and terminator, or its client is told; so in both dialects (S6)."""
    assert [each for each in course.asked if each.ended is Ended.CUT] == []
    kinds = Counter((each.anthropic, each.ended) for each in course.asked if each.stream)
    for anthropic in (False, True):
        assert kinds[anthropic, Ended.COMPLETE] >= 100
        assert kinds[anthropic, Ended.TOLD] > 0  # or the drill has broken nothing


async def test_what_had_not_begun_is_answered_by_another_neuron(course: Course) -> None:
    """Whoever was told of the break had the first byte of an answer; no request failed before that (L12)."""
    told = {each.request_id for each in course.asked if each.ended is Ended.TOLD}
    assert {line["request_id"] for line in course.lines.values() if line["outcome"] == "broken"} == told
    assert {line["outcome"] for line in course.lines.values()} == {"ok", "broken"}
    assert {each.ended for each in course.asked if not each.stream} == {Ended.COMPLETE}
    assert course.retried() > 0


async def test_the_healthy_neuron_s_streams_are_not_touched(course: Course) -> None:
    """Only the killed and the hung one's streams broke, each with its own error."""
    broken = Counter((line["neuron"], line["code"]) for line in course.lines.values() if line["outcome"] == "broken")
    assert broken.keys() == {(KILLED, "upstream_broken"), (HUNG, "upstream_timeout")}


async def test_every_request_has_one_line(course: Course) -> None:
    """None is lost and none is logged for nothing (S12)."""
    assert course.lines.keys() == {each.request_id for each in course.asked}


async def test_the_fleet_recovers_by_itself(course: Course) -> None:
    """Once one is continued and the other is started again, both answer, and nothing fails any more."""
    assert course.back_after_s.keys() == course.out_after_s.keys() == {KILLED, HUNG}
    after = [each.ended for each in course.asked if each.began > course.whole_at]
    assert len(after) >= 200
    assert set(after) == {Ended.COMPLETE}

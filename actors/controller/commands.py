"""What the controller is asked to do, one request after the other on one draft. Pure.

``plan`` decides and returns how to answer once the draft is stored: a reply is made from the version that
holds the change, never before.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ErrorCode
from ...model import TopicId
from ...transport import messages as m
from . import topics
from .draft import Draft
from .elections import NotReelected, reelect
from .internal import is_for_cluster, offsets_topic
from .isr import alter_partitions
from .leadership import PREFERRED, UNCLEAN, elect_leaders
from .topics import TopicRules

MakeReply = Callable[[int], m.Reply]  # from the version that holds what was asked
NewTopicId = Callable[[], str]

TOPICS_MAX = 10_000  # of one request


def plan(
    rules: TopicRules,
    draft: Draft,
    request: m.Request,
    *,
    now_ms: int,
    new_id: NewTopicId,
    is_internal: bool = False,
) -> MakeReply:
    """Put what is asked into the draft, and return how to answer when it is stored.

    Args:
        now_ms: wall clock; kept in the documents for people.
        is_internal: the cluster itself asks: it may create its own topics.
    """
    if isinstance(request, m.ReelectRequest):
        return _reelect(rules, draft, request)
    if isinstance(request, m.AlterPartitionRequest):
        return _alter_partitions(rules, draft, request)
    if isinstance(request, m.ElectLeadersRequest):
        return _elect_leaders(rules, draft, request)
    if isinstance(request, _TOPIC_REQUESTS):
        if (count := len(_wishes(request))) > TOPICS_MAX:
            return _refused(ErrorCode.LIMIT_EXCEEDED, f"{count} topics in one request; {TOPICS_MAX} at most")
        tried = draft.fork() if getattr(request, "validate_only", False) else draft
        results = _results(rules, tried, request, now_ms, new_id, is_internal)
        return lambda version: m.TopicsReply(version=version, topics=results)
    return _refused(ErrorCode.INVALID_REQUEST, f"the controller does not do {type(request).__name__}")


_TopicRequest = m.CreateTopicsRequest | m.DeleteTopicsRequest | m.CreatePartitionsRequest | m.AlterTopicsRequest
_TOPIC_REQUESTS = (
    m.CreateTopicsRequest,
    m.DeleteTopicsRequest,
    m.CreatePartitionsRequest,
    m.AlterTopicsRequest,
)


def _wishes(request: _TopicRequest) -> list[object]:
    return [*(request.names if isinstance(request, m.DeleteTopicsRequest) else request.topics)]


def _results(
    rules: TopicRules, draft: Draft, request: _TopicRequest, now_ms: int, new_id: NewTopicId, is_internal: bool
) -> list[m.TopicResult]:
    if isinstance(request, m.CreateTopicsRequest):
        if is_internal and is_for_cluster(request):
            wish = offsets_topic(rules.broker, rules.brokers, draft.image)
            return [rules.create(draft, wish, TopicId(new_id()), now_ms, is_internal=True)]
        return [
            rules.create(draft, wish, TopicId(new_id()), now_ms, is_internal=is_internal) for wish in request.topics
        ]
    if isinstance(request, m.DeleteTopicsRequest):
        return [topics.delete(draft, name, now_ms) for name in request.names]
    if isinstance(request, m.CreatePartitionsRequest):
        return [rules.add_partitions(draft, wish) for wish in request.topics]
    return [rules.alter(draft, wish) for wish in request.topics]


def _alter_partitions(rules: TopicRules, draft: Draft, request: m.AlterPartitionRequest) -> MakeReply:
    changes, entries = alter_partitions(draft.image, request, defaults=rules.defaults)
    draft.put(changes)
    return lambda version: m.AlterPartitionReply(version=version, entries=entries)


def _elect_leaders(rules: TopicRules, draft: Draft, request: m.ElectLeadersRequest) -> MakeReply:
    if request.election not in (PREFERRED, UNCLEAN):
        return _refused(
            ErrorCode.INVALID_REQUEST, f"{request.election[:40]!r} is no election: {PREFERRED} or {UNCLEAN}"
        )
    changes, entries = elect_leaders(draft.image, request, defaults=rules.defaults)
    draft.put(changes)
    return lambda version: m.ElectLeadersReply(version=version, entries=entries)


def _reelect(rules: TopicRules, draft: Draft, request: m.ReelectRequest) -> MakeReply:
    decided = reelect(draft.image, request, defaults=rules.defaults)
    if isinstance(decided, NotReelected):
        refusal = m.ReelectReply(error=decided.error, detail=decided.detail, leader_epoch=decided.leader_epoch)
        return lambda _: refusal
    if decided.change:
        draft.put([decided.change])
    return lambda _: m.ReelectReply(leader_epoch=decided.leader_epoch)


def _refused(error: ErrorCode, detail: str) -> MakeReply:
    return lambda _: m.ErrorReply(error=error, detail=detail)

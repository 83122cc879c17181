"""What a request must be to be looked at: bounds and names, before any state.

Each returns why the request is refused; None: nothing is wrong with it.
"""

from __future__ import annotations

from ...config import INT32_MAX, nearest, shown
from ...errors import ErrorCode
from ...model import is_topic_name
from ...transport import group_messages as said
from .events import GroupSettings
from .members import Refused

PATTERN_MAX = 4_096  # characters
ID_MAX = 249  # characters of a group id, a member id, an instance id


def check_group_id(group_id: str) -> Refused | None:
    if 1 <= len(group_id) <= ID_MAX:
        if group_id.isprintable():
            return None
        detail = f"group id {shown(group_id)} holds a character that cannot be printed"
        return Refused(ErrorCode.INVALID_GROUP_ID, detail)
    return Refused(ErrorCode.INVALID_GROUP_ID, f"group id {shown(group_id)} has {len(group_id)} characters")


def check_heartbeat(request: said.GroupHeartbeatRequest) -> Refused | None:
    """What every heartbeat must be, whoever sends it."""
    if refused := check_group_id(request.group_id):
        return refused
    if not 1 <= len(request.member_id) <= ID_MAX:
        detail = f"member_id {shown(request.member_id)}: a member names itself, with 1 to {ID_MAX} characters"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    if request.member_epoch < said.LEAVING_FOR_A_WHILE:
        return Refused(ErrorCode.INVALID_REQUEST, f"member_epoch {request.member_epoch} means nothing")
    if request.member_epoch == said.LEAVING_FOR_A_WHILE and not request.instance_id:
        detail = "only a member with an instance id may leave for a while: nobody else could come back in its place"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    return _check_subscription(request)


def check_join(request: said.GroupHeartbeatRequest, settings: GroupSettings) -> Refused | None:
    """What the first heartbeat of a member must say besides."""
    if request.topics is None:
        return Refused(ErrorCode.INVALID_REQUEST, "a member that joins says which topics it is subscribed to")
    if len(request.instance_id) > ID_MAX:
        detail = f"instance_id {shown(request.instance_id)} has more than {ID_MAX} characters"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    least, most = settings.group_session_timeout_ms_min, settings.group_session_timeout_ms_max
    if not least <= request.session_timeout_ms <= most:
        detail = f"session_timeout_ms {request.session_timeout_ms:,} is not within {least:,} and {most:,}"
        return Refused(ErrorCode.INVALID_SESSION_TIMEOUT, detail)
    if not 1 <= request.rebalance_timeout_ms <= INT32_MAX:
        detail = f"rebalance_timeout_ms {request.rebalance_timeout_ms:,} is not within 1 and {INT32_MAX:,}"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    return None


def _check_subscription(request: said.GroupHeartbeatRequest) -> Refused | None:
    if len(request.pattern) > PATTERN_MAX:
        detail = f"pattern {shown(request.pattern)} has more than {PATTERN_MAX:,} characters"
        return Refused(ErrorCode.INVALID_REQUEST, detail)
    for topic in request.topics or ():
        if not is_topic_name(topic):
            return Refused(ErrorCode.INVALID_TOPIC, f"subscribed to {shown(topic)}: no topic can be called so")
    for assignor in request.assignors or ():
        if assignor not in said.ASSIGNORS:
            known = ", ".join(said.ASSIGNORS)
            detail = f"there is no assignor {shown(assignor)}; there are {known}{nearest(assignor, said.ASSIGNORS)}"
            return Refused(ErrorCode.UNSUPPORTED_ASSIGNOR, detail)
    return None

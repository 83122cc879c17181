"""Writes the tables of docs/protocol.md from the code: ``python tests/transport/protocol_tables.py``.

``test_protocol_document.py`` fails while the document says something else.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import json
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

import msgspec

import callboard
from callboard.errors import ERRORS_BY_CODE, is_metadata_stale
from callboard.transport import group_messages, messages

DOCUMENT = Path(callboard.__file__).parent / "docs" / "protocol.md"
MODULES = (messages, group_messages)
UNIONS = {
    "client": messages.ClientRequest,
    "peer": messages.PeerRequest,
    "store": messages.StoreRequest,
    "host": messages.HostRequest,
}
REPLY_OF = {  # where the tag of the reply is not the request's with ".reply" behind it
    "create_topics": "topics.reply",
    "delete_topics": "topics.reply",
    "create_partitions": "topics.reply",
    "alter_topics": "topics.reply",
    "replica_progress": "",  # wants no reply
    "delete_groups": "alter_group.reply",
    "delete_offsets": "alter_group.reply",
    "remove_members": "alter_group.reply",
    "store.load": "store.snapshot",
    "store.watch": "store.delta` or `store.snapshot",
    "session.open": "session.reply",
    "session.heartbeat": "session.reply",
    "session.end": "session.reply",
    "lease.campaign": "lease.reply",
    "lease.renew": "lease.reply",
    "lease.resign": "lease.reply",
}
IMPLIED = {"id", "v", "deadline_ms", "error", "detail"}  # of every request, of every reply


class Source(NamedTuple):
    line: int
    text: str


def requests() -> list[type]:
    """Return every request once, in the order they are declared."""
    return declared({member for union in UNIONS.values() for member in union.__args__})


def replies() -> list[type]:
    return declared(set(messages.AnyReply.__args__))


def parts() -> list[type]:
    return declared({cls for module in MODULES for cls in vars(module).values() if is_part(cls)})


def is_part(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, messages.Part) and cls is not messages.Part


def declared(classes: set[type]) -> list[type]:
    names = [module.__name__ for module in MODULES]
    return sorted(classes, key=lambda cls: (names.index(cls.__module__), sources(cls.__module__)[cls.__name__].line))


@functools.cache
def sources(module: str) -> dict[str, Source]:
    """Return where each class of a module is written down. (``inspect`` would read the module again for each.)"""
    lines = inspect.getsource(sys.modules[module]).splitlines(keepends=True)
    return {
        node.name: Source(node.lineno, "".join(lines[node.lineno - 1 : node.end_lineno]))
        for node in ast.parse("".join(lines)).body
        if isinstance(node, ast.ClassDef)
    }


def tag(cls: type) -> str:
    return str(cls.__struct_config__.tag)


def own_fields(cls: type) -> dict[str, tuple[str, str]]:
    """Return, of the fields that are not in every message: name -> (type and default, comment)."""
    source = sources(cls.__module__)[cls.__name__].text
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for number, line in enumerate(source.splitlines(), start=1):
        match = re.match(r"    (\w+): ([^=#]+?)(?: = ([^#]+?))?\s*(?:#.*)?$", line)
        if match and match[1] in cls.__struct_fields__:
            found[match[1]] = (in_json(match[2]) + default_of(cls, match[1]), comments.get(number, ""))
    return found


def default_of(cls: type, name: str) -> str:
    field = next(field for field in msgspec.structs.fields(cls) if field.name == name)
    if field.required:
        return ""
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return f" = {json.dumps(default)}"


def in_json(annotation: str) -> str:
    """``list[Int64]`` in words of JSON."""
    annotation = annotation.strip()
    if annotation.endswith(" | None"):
        return in_json(annotation.removesuffix(" | None")) + " or null"
    if match := re.fullmatch(r"list\[(.+)\]", annotation):
        return f"[{in_json(match[1])}]"
    if match := re.fullmatch(r"dict\[(\w+), (.+)\]", annotation):
        return "{string: " + in_json(match[2]) + "}"
    words = {"Int64": "integer", "int": "integer", "str": "string", "bool": "boolean", "float": "number", "Any": "any"}
    return words.get(annotation, f"*{annotation}*")


def described(cls: type) -> str:
    text = inspect.cleandoc(cls.__doc__ or "") if cls.__doc__ and "__doc__" in vars(cls) else ""
    return text.replace("``", "`")


def table(cls: type) -> str:
    rows = own_fields(cls)
    if not rows:
        return ""
    lines = [f"| `{name}` | {kind} | {comment} |" for name, (kind, comment) in rows.items()]
    return "\n".join(["| field | type | |", "|---|---|---|", *lines]) + "\n"


def section(heading: str, cls: type) -> str:
    return "\n".join(text for text in (f"{heading}\n", described(cls), "", table(cls)) if text is not None)


def messages_text() -> str:
    blocks = ["### Requests\n"]
    for cls in requests():
        served = ", ".join(name for name, union in UNIONS.items() if cls in union.__args__)
        answer = REPLY_OF.get(tag(cls), f"{tag(cls)}.reply")
        answered = f"Answered by `{answer}`." if answer else "Not answered."
        blocks.append(section(f"#### `{tag(cls)}`\n\nServed by: {served}. {answered}", cls))
    blocks.append("### Replies\n")
    blocks.extend(section(f"#### `{tag(cls)}`", cls) for cls in replies())
    blocks.append("### Parts\n")
    blocks.extend(section(f"#### {cls.__name__}", cls) for cls in parts())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(blocks)).strip() + "\n"


def errors_text() -> str:
    lines = ["| code | name | retry | outcome unknown |", "|---|---|---|---|"]
    for code, error in sorted(ERRORS_BY_CODE.items()):
        retry = "metadata, then yes" if is_metadata_stale(code) else "yes" if error.retriable else "no"
        lines.append(f"| {code} | `{error.errno.name}` | {retry} | {'yes' if error.outcome_unknown else ''} |")
    return "\n".join(lines) + "\n"


def rewritten(document: str) -> str:
    """Return the document with its tables as the code has them now."""
    for name, text in (("messages", messages_text()), ("errors", errors_text())):
        begin, end = f"<!-- {name}: written by tests/transport/protocol_tables.py -->", f"<!-- end of {name} -->"
        before, _, rest = document.partition(begin)
        document = f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8")), "utf-8")

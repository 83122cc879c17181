"""Small trees for tests of real processes: ``run_process(…, branch="callboard.testing.branches:…")``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from ..actors.inspect import REQUESTS, Inspection
from ..actors.runtime import Context, LoopActor, LoopRef
from ..actors.supervisor import Backoff, ChildSpec, Strategy, SupervisorSpec, supervisor
from ..config import ProcessOptions
from ..errors import ConfigurationError
from ..transport import messages as m
from ..transport.seam import Inbound, Server, ServerIdentity


class Talker(LoopActor):
    """Answers what every process answers: the tree, and kills.

    A file ``<name>.trouble`` in the run directory tells it how to fail.
    """

    def __init__(
        self, context: Context, address: str, parent: LoopRef | None = None, *, options: ProcessOptions
    ) -> None:
        super().__init__(context, address, parent)
        self._options = options
        self._inspection = Inspection(context, options.name)
        self._server: Server | None = None

    handlers: ClassVar[Mapping[type, str]] = {str: "on_trouble"}

    def on_start(self) -> None:
        self._trouble()
        options = self._options
        binds = [f"ipc://{options.run_dir}/{options.name}.sock"]
        if options.broker_id >= 0:
            binds.insert(0, f"tcp://{options.cluster.host}:{options.port}")
        identity = ServerIdentity(role="broker" if options.broker_id >= 0 else "metadata", name=options.name)
        self._server = self.context.transport.serve(
            binds, m.ClientRequest | m.StoreRequest, self._serve, identity=identity
        )

    def on_stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def on_failure(self, *_: object) -> None:
        self.on_stop()

    def on_trouble(self, kind: str) -> None:
        if kind == "stall":
            time.sleep(3_600)

    def _serve(self, inbound: list[Inbound]) -> None:
        for one in inbound:
            reply: m.Reply
            if isinstance(one.message, REQUESTS):
                self._inspection.answer(one.message, partial(self._reply, one))
                continue
            match one.message:
                case m.OpenSessionRequest() | m.HeartbeatRequest() | m.EndSessionRequest():
                    reply = m.SessionReply()
                    self._note(one.message)
                case _:
                    reply = m.ErrorReply(detail="not here")
            self._reply(one, reply)

    def _reply(self, inbound: Inbound, reply: m.Reply) -> None:
        if self._server is not None:
            self._server.reply(inbound.peer, _with_id(reply, inbound.message.id))

    def _trouble(self) -> None:
        path = f"{self._options.run_dir}/{self._options.name}.trouble"
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                kind = file.read()
            if kind == "configuration":
                raise ConfigurationError("this setting is no good")
            if kind == "boom":
                raise ValueError("boom")
            if kind == "stall":
                self.tell_self("stall")

    def _note(self, message: m.Request) -> None:
        """Write down what the metadata process would have acted on."""
        if isinstance(message, m.EndSessionRequest):
            with open(f"{self._options.cluster.data_dir}/log/ended", "a", encoding="utf-8") as file:
                file.write(f"{message.name} {message.incarnation}\n")


def talker_branch(options: ProcessOptions, _: Context) -> ChildSpec:
    """Return a supervisor with one ``Talker`` below it."""
    talker = ChildSpec(name="talker", start=Talker.starter(options=options), backoff=Backoff(min_ms=1, max_ms=10))
    return supervisor(options.name, SupervisorSpec(strategy=Strategy.ONE_FOR_ONE, intensity=2, children=(talker,)))


def broken_branch(options: ProcessOptions, _: Context) -> ChildSpec:
    raise ConfigurationError(f"{options.name} cannot be made")


def _with_id(reply: m.Reply, number: int) -> m.Reply:
    import msgspec

    return msgspec.structs.replace(reply, id=number)

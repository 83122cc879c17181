"""A server in a process of its own, to be killed and paused. Prints its endpoint, ends when its input does."""

import sys

from callboard.transport import messages
from callboard.transport.endpoint import ZmqTransport
from callboard.transport.loop import SystemClock
from callboard.transport.seam import ServerIdentity
from callboard.transport.selector_loop import SelectorLoop


def main() -> None:
    loop = SelectorLoop()
    transport = ZmqTransport(loop, SystemClock())

    def on_requests(batch):
        for inbound in batch:
            if inbound.message.topics != ["no answer"]:
                server.reply(inbound.peer, messages.MetadataReply(id=inbound.message.id))

    identity = ServerIdentity(role="broker", name="broker-1")
    server = transport.serve(sys.argv[1:], messages.ClientRequest, on_requests, identity=identity)
    loop.add_reader(0, loop.stop)
    print(*server.endpoints, flush=True)
    loop.run()
    transport.close()
    loop.close()


if __name__ == "__main__":
    main()

"""Server and worker in separate processes.

The *relay* is an application for the server: it hands each connection to a worker. The *worker* is
a server for the application: it runs the application on connections from relays. They exchange
messages through gredis.

All decisions are made without I/O, so that gevent and asyncio share them and tests need no sockets:

    wire.py              the messages, and the protocol version
    flow_control.py      how much may be in transit
    states.py            the states of both ends of a connection, as tables
    link.py              ordered, repeated delivery between two processes; many connections share it
    lifeline.py          the greeting on a lifeline, which shows at once that a process has died
    endpoint.py          all links of one process
    relay/connection.py  the server's end of one connection, and how it outlives its worker
    relay/endpoint.py    all connections of a relay: finds a worker for each
    worker/connection.py the application's end of one connection
    worker/endpoint.py   all connections of a worker

The modules named `gevent.py` and `asyncio.py` wait and do I/O. Read next: `wire.py`.
"""

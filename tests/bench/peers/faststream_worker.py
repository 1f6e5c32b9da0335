"""A plain worker with FastStream and aiohttp, on uvloop: delete, publish, wait for the confirm, acknowledge.

At SIGTERM it stops consuming and finishes what it has. Every failure requeues the command. It has no delay queues,
dead letters, circuit breaker, suspension, attempts or metrics, and one token for all organisations.
"""

import os
import time
from contextlib import asynccontextmanager

import aiohttp
import uvloop
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel

import outcome

BASE = os.environ["TALLYFY_BASE_URL"]
CONCURRENCY = int(os.environ["CONCURRENCY"])

broker = RabbitBroker(os.environ["AMQP_URL"], default_channel=Channel(on_return_raises=True), logger=None)
events = broker.publisher(
    exchange=RabbitExchange("task.events", declare=False),
    routing_key="task.deleted",
    persist=True,
    content_type="application/cloudevents+json",
)


class Command(BaseModel):
    org_id: str
    task_id: str
    requested_by: str | None = None
    reason: str | None = None


@broker.subscriber(
    RabbitQueue("task.delete", declare=False),
    channel=Channel(prefetch_count=2 * CONCURRENCY, publisher_confirms=False),
    ack_policy=AckPolicy.NACK_ON_ERROR,
    no_reply=True,
)
async def delete(command: Command, command_id: str = Context("message.message_id"), http=Context()):
    began = time.monotonic()
    async with http.delete(f"{BASE}/organizations/{command.org_id}/tasks/{command.task_id}/delete") as response:
        if response.status != 204:
            raise RuntimeError(f"HTTP {response.status}")
    event = outcome.deleted(
        command_id, command.org_id, command.task_id, command.requested_by, command.reason, time.monotonic() - began
    )
    await events.publish(event, message_id=event["id"])


@asynccontextmanager
async def lifespan(context: ContextRepo):
    # The connector's limit bounds the calls; the prefetch keeps it busy.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONCURRENCY),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": "Bearer token"},
        timeout=aiohttp.ClientTimeout(total=15),
    ) as http:
        context.set_global("http", http)
        yield


uvloop.run(FastStream(broker, lifespan=lifespan).run())

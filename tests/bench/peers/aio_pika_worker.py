"""A plain worker with aio-pika and aiohttp, on uvloop: delete, publish, wait for the confirm, acknowledge.

At SIGTERM it stops consuming and finishes what it has. Every failure requeues the command. It has no delay queues,
dead letters, circuit breaker, suspension, attempts, schemas or metrics, and one token for all organisations.
"""

import asyncio
import json
import os
import signal
import time

import aio_pika
import aiohttp
import uvloop

import outcome

BASE = os.environ["TALLYFY_BASE_URL"]
CONCURRENCY = int(os.environ["CONCURRENCY"])


async def main():
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    # The connector's limit bounds the calls; the prefetch keeps it busy.
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONCURRENCY),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": "Bearer token"},
        timeout=aiohttp.ClientTimeout(total=15),
    )
    async with connection, http:
        consuming = await connection.channel(publisher_confirms=False)
        await consuming.set_qos(prefetch_count=2 * CONCURRENCY)
        queue = await consuming.get_queue("task.delete")
        publishing = await connection.channel(on_return_raises=True)
        events = await publishing.get_exchange("task.events")
        in_hand = set()

        async def handle(message):
            in_hand.add(message)
            try:
                async with message.process(requeue=True):
                    began, command = time.monotonic(), json.loads(message.body)
                    org, task = command["org_id"], command["task_id"]
                    async with http.delete(f"{BASE}/organizations/{org}/tasks/{task}/delete") as response:
                        if response.status != 204:
                            raise RuntimeError(f"HTTP {response.status}")
                    event = outcome.deleted(
                        message.message_id, org, task, command.get("requested_by"), command.get("reason"), time.monotonic() - began
                    )
                    await events.publish(
                        aio_pika.Message(
                            json.dumps(event, separators=(",", ":")).encode(),
                            message_id=event["id"],
                            content_type="application/cloudevents+json",
                            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        ),
                        routing_key="task.deleted",
                    )
            finally:
                in_hand.remove(message)

        tag = await queue.consume(handle)
        await stopping.wait()
        await queue.cancel(tag)
        while in_hand:
            await asyncio.sleep(0.01)


uvloop.run(main())

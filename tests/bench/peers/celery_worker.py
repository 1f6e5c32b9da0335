"""A plain worker with Celery and requests: the task deletes, publishes, waits for the confirm; Celery acknowledges.

It consumes messages in Celery's own format, not JSON commands: Celery cannot read others. It is one process with a pool of threads,
so that all CPU time is its own. At SIGTERM it finishes what it has begun. Every failure requeues the command. It has no delay queues,
dead letters, circuit breaker, suspension, attempts, schemas or metrics, and one token for all organisations.
"""

import json
import os
import time

import requests
from celery import Celery
from celery.exceptions import Reject
from kombu import Queue
from requests.adapters import HTTPAdapter

import outcome

BASE = os.environ["TALLYFY_BASE_URL"]
CONCURRENCY = int(os.environ["CONCURRENCY"])

app = Celery("tasks", broker=os.environ["AMQP_URL"], set_as_current=True)
app.conf.update(
    # The arguments only tell Celery that it is a quorum queue: those have no global QoS.
    task_queues=[Queue("task.delete", no_declare=True, queue_arguments={"x-queue-type": "quorum"})],
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=2,
    worker_enable_remote_control=False,
    # For quorum queues Celery creates delay queues of its own; nothing is delayed here.
    broker_native_delayed_delivery_queue_type="classic",
    broker_heartbeat=10,
    broker_transport_options={"confirm_publish": True},
    broker_pool_limit=CONCURRENCY,
)

http = requests.Session()
http.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=CONCURRENCY))
http.trust_env = False
http.headers["Authorization"] = "Bearer token"


@app.task(name="tasks.delete", bind=True)
def delete(self, org_id, task_id, requested_by="bench", reason="erasure request 4711"):
    began = time.monotonic()
    try:
        response = http.delete(f"{BASE}/organizations/{org_id}/tasks/{task_id}/delete", timeout=15)
        if response.status_code != 204:
            raise RuntimeError(f"HTTP {response.status_code}")
        event = outcome.deleted(self.request.id, org_id, task_id, requested_by, reason, time.monotonic() - began)
        with app.producer_or_acquire() as producer:
            producer.publish(
                json.dumps(event, separators=(",", ":")),
                exchange="task.events",
                routing_key="task.deleted",
                message_id=event["id"],
                content_type="application/cloudevents+json",
                content_encoding="utf-8",
                delivery_mode="persistent",
            )
    except Exception as error:
        raise Reject(error, requeue=True) from error


if __name__ == "__main__":
    options = f"--pool threads --concurrency {CONCURRENCY} --loglevel warning"
    app.worker_main(["worker", *options.split(), "--without-gossip", "--without-mingle", "--without-heartbeat"])

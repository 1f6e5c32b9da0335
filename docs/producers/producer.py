"""Publishes one delete command: AMQP_URL=... python producer.py ORG TASK [EXCHANGE [ROUTING_KEY]]

pika raises UnroutableError or NackError if no queue took the command. Then publish it again with the same message_id.
"""

import json
import os
import sys
import uuid

import pika

org, task = sys.argv[1:3]
exchange = sys.argv[3] if len(sys.argv) > 3 else "task.commands"
# The kind of deletion: "task.archive" archives the task; "process.delete" takes a "process_id" in the body, and so on.
routing_key = sys.argv[4] if len(sys.argv) > 4 else "task.delete"

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
channel.confirm_delivery()
message_id = str(uuid.uuid4())
channel.basic_publish(
    exchange,
    routing_key,
    json.dumps({"org_id": org, "task_id": task, "requested_by": "example"}),
    pika.BasicProperties(message_id=message_id, delivery_mode=2, content_type="application/json"),
    mandatory=True,
)
connection.close()
print(message_id)

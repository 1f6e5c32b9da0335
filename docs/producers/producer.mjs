// Publishes one delete command: AMQP_URL=... node producer.mjs ORG TASK [EXCHANGE [ROUTING_KEY]]   (npm install amqplib)
// A returned message arrives before its confirm. If this fails, publish again with the same messageId.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [org, task, exchange = "task.commands", routingKey = "task.delete"] = process.argv.slice(2);
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createConfirmChannel();
const returned = new Set();
channel.on("return", (message) => returned.add(message.properties.messageId));

const messageId = randomUUID();
const body = Buffer.from(JSON.stringify({ org_id: org, task_id: task, requested_by: "example" }));
const options = { messageId, persistent: true, mandatory: true, contentType: "application/json" };
await new Promise((resolve, reject) =>
  channel.publish(exchange, routingKey, body, options, (error) => {
    if (error) reject(error);
    else if (returned.delete(messageId)) reject(new Error("no queue took the command"));
    else resolve();
  }),
);
await connection.close();
console.log(messageId);

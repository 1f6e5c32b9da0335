// A plain worker with amqplib and undici: delete, publish, wait for the confirm, acknowledge.
//
// At SIGTERM it stops consuming and finishes what it has. Every failure requeues the command. It has no delay queues,
// dead letters, circuit breaker, suspension, attempts, schemas or metrics, uses one token for all organisations, and ends when the broker is lost.
import { createHash } from "node:crypto";
import amqp from "amqplib";
import { Pool } from "undici";

const base = new URL(process.env.TALLYFY_BASE_URL);
const concurrency = Number(process.env.CONCURRENCY);

// The number of connections limits the calls; the prefetch keeps them busy.
const http = new Pool(base.origin, { connections: concurrency, pipelining: 1, headersTimeout: 15_000, bodyTimeout: 15_000 });
const headers = { authorization: "Bearer token" };
const connection = await amqp.connect(process.env.AMQP_URL, { noDelay: true });
const publishing = await connection.createConfirmChannel();
const consuming = await connection.createChannel();
await consuming.prefetch(2 * concurrency);

function publish(event) {
  const body = Buffer.from(JSON.stringify(event));
  const options = { messageId: event.id, persistent: true, contentType: "application/cloudevents+json" };
  return new Promise((resolve, reject) =>
    publishing.publish("task.events", "task.deleted", body, options, (error) => (error ? reject(error) : resolve())),
  );
}

// A repeat has the same id: a UUID of version 5.
function eventId(commandId) {
  const hash = createHash("sha1").update(`task.deleted/${commandId}`).digest();
  hash[6] = (hash[6] & 0x0f) | 0x50;
  hash[8] = (hash[8] & 0x3f) | 0x80;
  return hash.toString("hex", 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

async function handle(message) {
  const began = performance.now();
  const { org_id, task_id, requested_by, reason } = JSON.parse(message.content);
  const path = `${base.pathname.replace(/\/$/, "")}/organizations/${org_id}/tasks/${task_id}/delete`;
  const { statusCode, body } = await http.request({ method: "DELETE", path, headers });
  await body.dump(); // otherwise the connection is not reused
  if (statusCode !== 204) throw new Error(`HTTP ${statusCode}`);
  const command_id = message.properties.messageId;
  const duration_ms = Math.round(performance.now() - began);
  await publish({
    specversion: "1.0", id: eventId(command_id), source: "tallyfy-delete-worker", type: "task.deleted",
    subject: `${org_id}/${task_id}`, time: new Date().toISOString(), datacontenttype: "application/json",
    data: {
      command_id, org_id, task_id, outcome: "deleted", attempts: 1, ambiguous: false, http_status: 204,
      requested_by, reason, duration_ms,
    },
  });
}

const inHand = new Set();
const { consumerTag } = await consuming.consume("task.delete", (message) => {
  if (message === null) throw new Error("the queue is gone");
  const work = handle(message)
    .then(() => consuming.ack(message), (error) => (console.error(error.message), consuming.reject(message, true)))
    .finally(() => inHand.delete(work));
  inHand.add(work);
});

process.once("SIGTERM", async () => {
  await consuming.cancel(consumerTag);
  await Promise.all(inHand);
  await connection.close();
  await http.close();
});

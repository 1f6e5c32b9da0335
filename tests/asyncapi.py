"""Validates docs/asyncapi.yaml: its form (FastStream's model of AsyncAPI 3.0), its references, its examples, and its names, which must be
those of deploy/rabbitmq/definitions.json (a test holds these against the code)."""

import json
import pathlib

import jsonschema
import yaml
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

DOCS = pathlib.Path("docs")
document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
ApplicationSchema.model_validate(document)
assert document["asyncapi"] == "3.0.0"


def resolve(reference):
    if not reference.startswith("#/"):
        return json.loads((DOCS / reference).read_text())
    place = document
    for step in reference[2:].split("/"):
        place = place[step]
    return place


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


for reference in references(document):
    resolve(reference)

examples = 0
for message in document["components"]["messages"].values():
    for example in message.get("examples", []):
        schema = resolve(message["payload"]["$ref"])
        jsonschema.validate(example["payload"], schema, jsonschema.Draft202012Validator)
        examples += 1
assert examples == 22, examples

definitions = json.loads(pathlib.Path("deploy/rabbitmq/definitions.json").read_text())
known = {kind: {one["name"]: one for one in definitions[f"{kind}s"]} for kind in ("exchange", "queue")}
for channel in document["channels"].values():
    binding = channel["bindings"]["amqp"]
    kind = "queue" if binding["is"] == "queue" else "exchange"
    there = known[kind][binding[kind]["name"]]
    assert binding[kind].get("type", there.get("type")) == there.get("type"), binding

# Each kind has its channel, with the schema of its own commands; an event's example is one of its own channel.
kinds = {binding["routing_key"] for binding in definitions["bindings"] if binding["source"] == "task.commands"}
commands = {
    channel["address"]: channel
    for channel in document["channels"].values()
    if channel["bindings"]["amqp"].get("exchange", {}).get("name") == "task.commands"
}
assert set(commands) == kinds, (set(commands), kinds)
for kind, channel in commands.items():
    (message,) = channel["messages"].values()
    title = resolve(resolve(message["$ref"])["payload"]["$ref"])["title"]
    assert title == f"{kind} command", (kind, title)
addresses = {}
for channel in document["channels"].values():
    (message,) = channel["messages"].values()
    addresses.setdefault(message["$ref"], set()).add(channel["address"])
for reference, places in addresses.items():
    message = resolve(reference)
    if message["payload"].get("$ref") == "./schemas/event.json":
        types = {example["payload"]["type"] for example in message["examples"]}
        assert types and types <= places, (types, places)
print(f"docs/asyncapi.yaml is valid: {len(document['channels'])} channels, {examples} examples")

"""Validates Kubernetes manifests: against the schemas of Kubernetes, and against the restricted pod security level.

Reads YAML documents from standard input. Custom resources (KEDA, Prometheus operator) have no schema in kubernetes-validate: of
these the fields that we rely on are checked here.
"""

import sys

import kubernetes_validate
import yaml

VERSION = "1.32"
CUSTOM = {
    "ScaledObject": [("scaleTargetRef", "name"), ("triggers",)],
    "TriggerAuthentication": [("secretTargetRef",)],
    "ServiceMonitor": [("selector", "matchLabels"), ("endpoints",)],
    "PrometheusRule": [("groups",)],
}


def restricted(name, spec):
    """What https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted asks of a pod."""
    pod = spec.get("securityContext", {})
    yield pod.get("runAsNonRoot") is True, "runAsNonRoot"
    yield pod.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"), "seccompProfile"
    yield not (spec.get("hostNetwork") or spec.get("hostPID") or spec.get("hostIPC")), "host namespaces"
    kinds = {"configMap", "secret", "emptyDir", "projected", "downwardAPI", "csi", "ephemeral", "persistentVolumeClaim"}
    yield all(set(volume) - {"name"} <= kinds for volume in spec.get("volumes", [])), "kinds of volumes"
    for container in spec.get("initContainers", []) + spec["containers"]:
        own = container.get("securityContext", {})
        where = f"of {container['name']}"
        yield own.get("allowPrivilegeEscalation") is False, f"allowPrivilegeEscalation {where}"
        yield own.get("capabilities", {}).get("drop") == ["ALL"], f"capabilities {where}"
        # More than the level asks.
        yield own.get("readOnlyRootFilesystem") is True, f"readOnlyRootFilesystem {where}"
        yield "memory" in container.get("resources", {}).get("limits", {}), f"memory limit {where}"


def faults(document):
    kind = document["kind"]
    if kind in CUSTOM:
        for path in CUSTOM[kind]:
            place = document["spec"]
            for step in path:
                place = place.get(step) if place else None
            if not place:
                yield f"spec.{'.'.join(path)} is missing"
        return
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"
    if kind == "NetworkPolicy" and not document["spec"]["podSelector"].get("matchLabels"):
        yield "it would cut off the neighbours: an empty selector is every pod of the namespace"
    spec = document.get("spec", {}).get("template", {}).get("spec")
    if spec:
        for holds, what in restricted(document["metadata"]["name"], spec):
            if not holds:
                yield f"not restricted: {what}"


def scaling_faults(documents):
    """A worker scales by the queues of the kinds that it serves, and by no other."""
    kinds = [one["data"]["KINDS"].split(",") for one in documents if "KINDS" in one.get("data", {})]
    for scaled in (one for one in documents if one["kind"] == "ScaledObject"):
        queues = [trigger["metadata"]["queueName"] for trigger in scaled["spec"]["triggers"]]
        for served in kinds:
            if sorted(queues) != sorted(served):
                yield f"ScaledObject {scaled['metadata']['name']}: its triggers are for {queues}, but KINDS names {served}"


def namespace_faults(documents):
    """What has no namespace lands in the one that happens to be current."""
    for document in documents:
        if "namespace" not in document["metadata"]:
            yield f"{document['kind']} {document['metadata']['name']}: no namespace"


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    assert documents, "nothing to validate"
    found = [
        f"{document['kind']} {document['metadata']['name']}: {fault}"
        for document in documents
        for fault in faults(document)
    ]
    found += scaling_faults(documents)
    if sys.argv[1:] == ["overlay"]:
        found += namespace_faults(documents)
    print("\n".join(found) or f"{len(documents)} manifests are valid")
    sys.exit(bool(found))


main()

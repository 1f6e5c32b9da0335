"""The event of the Python peers, in the shape of docs/messages.md."""

from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5


def deleted(command_id, org_id, task_id, requested_by, reason, duration):
    """A repeat has the same id. `duration` in seconds."""
    return {
        "specversion": "1.0",
        "id": str(uuid5(NAMESPACE_URL, f"task.deleted/{command_id}")),
        "source": "tallyfy-delete-worker",
        "type": "task.deleted",
        "subject": f"{org_id}/{task_id}",
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": {
            "command_id": command_id,
            "org_id": org_id,
            "task_id": task_id,
            "outcome": "deleted",
            "attempts": 1,
            "ambiguous": False,
            "http_status": 204,
            "requested_by": requested_by,
            "reason": reason,
            "duration_ms": round(duration * 1000),
        },
    }

"""The members of a record as they are now."""

import logging
from typing import Literal

from revt_hf.checkpoints.hub_requests import is_unasked
from revt_hf.checkpoints.tensors import Checkpoint, open_checkpoint
from revt_hf.core.errors import UserError
from revt_hf.merging.record import HubRecord, MemberRecord, MergeRecord, member_record

State = Literal["same", "changed", "gone", "unknown"]
_log = logging.getLogger(__name__)


def current_record(model: str | Checkpoint) -> MemberRecord:
    """Path and sha256 of a model as it is now."""
    if isinstance(model, str):
        with open_checkpoint(model, quiet=True) as found:
            return current_record(found)
    return member_record(model.label, model.digests(), hub=hub_record(model, hashed=True))


def hub_record(model: Checkpoint, hashed: bool) -> HubRecord | None:
    """The commit that a model was read at, if it is the Hub's; ``hashed`` as the local ones are."""
    if model.hub is None:
        return None
    return HubRecord(model.hub.commit, hashed and not model.hub.files)


def member_states(record: MergeRecord) -> list[State]:
    """Hash the members (and the base) of a record again and compare; tells why one is not found.

    Unknown is one without a digest, or of a Hub that could not be asked.
    """

    def state(member: MemberRecord) -> State:
        if member.sha256 is None:
            return "unknown"
        try:
            with open_checkpoint(member.path, quiet=True, parts=True) as found:
                return "same" if current_record(found).sha256 == member.sha256 else "changed"
        except UserError as error:
            _log.info("%s", error)
            return "unknown" if is_unasked(error) else "gone"

    return [state(member) for member in record.inputs]

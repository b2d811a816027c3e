"""Collections of the Hub: one is found or made, and extended; what is in it stays."""

from collections.abc import Sequence
from http import HTTPStatus

from huggingface_hub import Collection, HfApi
from huggingface_hub.errors import HfHubHTTPError

from revt_hf.core.errors import UserError
from revt_hf.hub.commit import PUBLIC, Kind, is_repo_id


def find_collection(hub: HfApi, wanted: str, owner: str, private: bool) -> Collection | None:
    """The collection of a slug (``owner/name``), or the owner's of a title; None without one.

    Raises:
        UserError: there is none of that slug, or it is public and ``private`` is asked for.
    """
    if not wanted.strip():
        raise UserError("--collection: name the collection by its title or slug")
    if is_repo_id(wanted):
        try:
            return _checked(hub.get_collection(wanted), private)
        except HfHubHTTPError as error:
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            raise UserError(
                f"there is no collection {wanted}: copy its slug from its address, or make one by "
                "its title, which is no OWNER/NAME"
            ) from None
    # Of a list, only the first items are told.
    slugs = [one.slug for one in hub.list_collections(owner=owner) if one.title == wanted]
    return _checked(hub.get_collection(slugs[0]), private) if slugs else None


def extend_collection(
    hub: HfApi, wanted: str, owner: str, private: bool, items: Sequence[tuple[str, Kind]]
) -> str:
    """Add what is not in the collection yet, and return its address; it is made if necessary."""
    found = find_collection(hub, wanted, owner, private)
    if found is None:
        # It may have been made in the meantime.
        made = hub.create_collection(wanted, namespace=owner, private=private, exists_ok=True)
        found = _checked(made, private)
    there = {(one.item_id, one.item_type) for one in found.items}
    for name, kind in items:
        if (name, kind) not in there:
            hub.add_collection_item(found.slug, name, kind, exists_ok=True)
    return found.url


def _checked(found: Collection, private: bool) -> Collection:
    if private and not found.private:
        raise UserError(PUBLIC.format(f"collection {found.slug}"))
    return found

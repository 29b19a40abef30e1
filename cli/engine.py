"""Our search attributes on a Temporal server: which are missing, and registering them."""

from datetime import timedelta

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from domain.names import SearchAttribute

LIMIT = timedelta(seconds=10)


async def missing_attributes(client: Client) -> list[str]:
    """Return those of our search attributes that the namespace does not have yet. Raises RPCError."""
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace), timeout=LIMIT
    )
    return [name.value for name in SearchAttribute if name.value not in answer.custom_attributes]


async def register_attributes(client: Client) -> list[str]:
    """Add what is missing and return it; one that somebody else added meanwhile is fine. Raises RPCError."""
    missing = await missing_attributes(client)
    if missing:
        keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
        try:
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(
                    namespace=client.namespace, search_attributes=dict.fromkeys(missing, keyword)
                ),
                timeout=LIMIT,
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.ALREADY_EXISTS:
                raise
    return missing

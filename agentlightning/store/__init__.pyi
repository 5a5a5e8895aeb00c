"""Public names of the store: the contract, its implementations, the client and the server."""

from .contract import UNSET as UNSET, LightningStore as LightningStore, Unset as Unset
from .factory import (
    InMemoryLightningStore as InMemoryLightningStore,
    PostgresLightningStore as PostgresLightningStore,
    SqliteLightningStore as SqliteLightningStore,
    open_store as open_store,
)
from .http.client import LightningStoreClient as LightningStoreClient
from .http.server import LightningStoreServer as LightningStoreServer

"""The agent beside the scanner: scans that appear in a folder → series in the PACS, by way of a centre; nothing lost.

Light on purpose: no projector, no compiler, no database; an old PC carries it.
"""

from lampyris.site.agent import Agent
from lampyris.site.config import Config, ConfigError, load
from lampyris.site.exchange import Events, Link, Site, client, enrol
from lampyris.site.identity import Vault
from lampyris.site.intake import Intake, Order
from lampyris.site.patience import Surroundings
from lampyris.site.status import status
from lampyris.site.store import Spool

__all__ = [
    "Agent", "Config", "ConfigError", "Events", "Intake", "Link", "Order", "Site", "Spool", "Surroundings",
    "Vault", "client", "enrol", "load", "status",
]  # fmt: skip

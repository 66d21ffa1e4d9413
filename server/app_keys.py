"""What the parts of the application find each other by (aiohttp's typed keys); `server/app.py` fills them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:  # the parts themselves import this module
    from kernels.house import House
    from kernels.nursery_client import NurseryClient
    from server.channels import Conversation
    from server.contents.contents import Contents
    from server.execution.executions import Executions
    from server.kernelspecs import Kernelspecs
    from server.login import Logins
    from server.ownership import Ownership
    from server.settings import Settings
    from server.status import Status
    from sharding.membership import Membership
    from sharding.peers import Peers

SETTINGS: web.AppKey[Settings] = web.AppKey("settings")
MEMBERSHIP: web.AppKey[Membership] = web.AppKey("membership")
OWNERSHIP: web.AppKey[Ownership] = web.AppKey("ownership")
PEERS: web.AppKey[Peers] = web.AppKey("peers")
LOGINS: web.AppKey[Logins] = web.AppKey("logins")
NURSERY: web.AppKey[NurseryClient] = web.AppKey("nursery")
EXECUTIONS: web.AppKey[Executions] = web.AppKey("executions")
STOPPING: web.AppKey[asyncio.Event] = web.AppKey("stopping")
HOUSE: web.AppKey[House] = web.AppKey("house")
CONTENTS: web.AppKey[Contents] = web.AppKey("contents")
KERNELSPECS: web.AppKey[Kernelspecs] = web.AppKey("kernelspecs")
STATUS: web.AppKey[Status] = web.AppKey("status")
CONVERSATIONS: web.AppKey[set[Conversation]] = web.AppKey("conversations")

"""Routes of the application → the pages that people see: what a walk has to visit, and what no person looks at."""

from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.routing import APIRoute

from lampyris.centre.api import app as application
from lampyris.centre.people.rules import MAY, Action, Role

MACHINES = ("/v1", "/dicomweb", "/static/", "/viewer/files/", "/healthz", "/readyz", "/metrics")
"""What only programs ask for."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its route and what one has to be allowed to see it."""

    path: str
    action: Action

    def seen_by(self, role: Role) -> bool:
        return self.action in (Action.OPEN, Action.SELF) or self.action in MAY[role]

    @property
    def reader(self) -> Role:
        """A role that may see it."""
        return next(role for role in Role if self.seen_by(role))


def routes() -> Iterator[APIRoute]:
    """Everything that a browser could be pointed at."""
    for router in application.ROUTERS:
        yield from (one for one in _routes(router) if "GET" in one.methods and not one.path.startswith(MACHINES))


def page_of(path: str) -> Page:
    """The page of a route; StopIteration when there is no such route."""
    route = next(one for one in routes() if one.path == path)
    return Page(path, _action(route))


def _routes(router: APIRouter) -> Iterator[APIRoute]:
    for one in router.routes:
        if isinstance(one, APIRoute):
            yield one
        else:
            yield from _routes(one.original_router)


def _action(route: APIRoute) -> Action:
    """What the route says it needs; OPEN where it says nothing."""
    left = [route.dependant]
    while left:
        one = left.pop()
        if (action := getattr(one.call, "action", None)) is not None:
            return Action(action)
        left += one.dependencies
    return Action.OPEN

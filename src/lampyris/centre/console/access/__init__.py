"""Pages through which people come in and go, and what is their own: sign-in, provider, account, emergency access."""

from fastapi import APIRouter

from lampyris.centre.console.access import account, emergency, provider, sign_in

router = APIRouter(include_in_schema=False)
for each in (sign_in, provider, account, emergency):
    router.include_router(each.router)

__all__ = ["router"]

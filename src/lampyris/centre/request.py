"""A request → the centre that answers it; what every router of the centre begins with."""

from typing import Annotated

from fastapi import Depends, Request

from lampyris.centre.service import Centre


async def centre_of(request: Request) -> Centre:
    """The centre that this process serves."""
    centre: Centre = request.app.state.centre
    return centre


This = Annotated[Centre, Depends(centre_of)]

"""A FastAPI service: bounded requests, a bounded queue, a deadline."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from crossrank import AsyncCrossEncoder, Closed, Overloaded

MAX_QUEUE_TOKENS = 200_000
DEADLINE_MS = 500


class RankRequest(BaseModel):
    query: str = Field(min_length=1, max_length=1_000)  # characters
    documents: list[Annotated[str, Field(max_length=20_000)]] = Field(min_length=1, max_length=1_000)
    top_k: int = Field(10, ge=1, le=1_000)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncCrossEncoder(max_queue_tokens=MAX_QUEUE_TOKENS) as model:
        await asyncio.to_thread(model.model.warm_up)  # the port opens after this
        app.state.model = model
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(Overloaded)
@app.exception_handler(Closed)
async def busy(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


@app.exception_handler(RequestValidationError)
async def unusable(request: Request, error: RequestValidationError) -> JSONResponse:
    # Without the input, which FastAPI would send back: it may be large, or half of an emoji, which is no UTF-8.
    return JSONResponse({"detail": [{"loc": part["loc"], "msg": part["msg"]} for part in error.errors()]}, 422)


@app.post("/rank")
async def rank(body: RankRequest, request: Request) -> dict[str, Any]:
    model: AsyncCrossEncoder = request.app.state.model
    ranking = await model.rank(body.query, body.documents, body.top_k, deadline_ms=DEADLINE_MS)
    return {"hits": list(ranking), "complete": ranking.complete}

"""The gRPC service ``tei.v1.Rerank``, as text-embeddings-inference has it, on a port of its own.

Its messages are described here and not compiled, so that any protobuf of the last years reads them. Clients find them
by reflection too, as Haystack's does.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_reflection.v1alpha import reflection

from ._metrics import GRPC
from ._request import Kind, Problem, Rerank
from ._service import Service, log, outcome_of, problem_of
from ._tracing import Tell, request_span

_SERVICE = "tei.v1.Rerank"
_WAY_BACK = 0.2  # of a deadline
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "string": _FIELD.TYPE_STRING,
    "bool": _FIELD.TYPE_BOOL,
    "float": _FIELD.TYPE_FLOAT,
    "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64,
}
# Fields in the order of their numbers, from 1 on: "?" may be absent, "*" is repeated.
_COMMON = ["bool truncate", "bool raw_scores", "bool return_text", "TruncationDirection truncation_direction"]
_MESSAGES = {
    "RerankRequest": ["string query", "string* texts", *_COMMON],
    "RerankStreamRequest": ["string query", "string text", *_COMMON],
    "Rank": ["uint32 index", "string? text", "float score"],
    "Metadata": [
        "uint32 compute_chars",
        "uint32 compute_tokens",
        "uint64 total_time_ns",
        "uint64 tokenization_time_ns",
        "uint64 queue_time_ns",
        "uint64 inference_time_ns",
    ],
    "RerankResponse": ["Rank* ranks", "Metadata metadata"],
}
_CODES: Mapping[Kind, grpc.StatusCode] = {
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "unhealthy": grpc.StatusCode.UNAVAILABLE,
    "backend": grpc.StatusCode.INTERNAL,
}


def _describe() -> descriptor_pool.DescriptorPool:
    """The file of the messages and the service."""
    file = descriptor_pb2.FileDescriptorProto(name="tei.proto", package="tei.v1", syntax="proto3")
    direction = file.enum_type.add(name="TruncationDirection")
    for number, name in enumerate(("TRUNCATION_DIRECTION_RIGHT", "TRUNCATION_DIRECTION_LEFT")):
        direction.value.add(name=name, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(fields, 1):
            kind, _, field_name = text.partition(" ")
            label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if kind.endswith("?"):
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
            kind = kind.rstrip("?*")
            if kind in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type = _FIELD.TYPE_ENUM if kind == direction.name else _FIELD.TYPE_MESSAGE
                field.type_name = f".tei.v1.{kind}"
    service = file.service.add(name="Rerank")
    for name in ("Rerank", "RerankStream"):
        streams = name == "RerankStream"
        service.method.add(
            name=name,
            input_type=f".tei.v1.{name}Request",
            output_type=".tei.v1.RerankResponse",
            client_streaming=streams,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _describe()


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"tei.v1.{name}"))


class _Servicer:
    """The two calls.

    Args:
        service: What answers them.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def rerank(self, request: Any, context: Any) -> Any:
        """Rank the texts of one message."""
        return await self._answer(request, list(request.texts), request.ByteSize(), context)

    async def rerank_stream(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Rank texts that come a message each; the first one's query and options count, and the bounds at once."""
        first, texts, size = None, [], 0
        limits = self._service.limits
        async for request in requests:
            first = first or request
            texts.append(request.text)
            size += request.ByteSize()
            if size > limits.body_bytes or len(texts) > limits.documents:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "more texts than a request may have")
        if first is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there are no texts: one at least is needed")
        return await self._answer(first, texts, size, context)

    async def _answer(self, request: Any, texts: list[str], size: int, context: Any) -> Any:
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        with request_span(headers) as tell:
            return await self._answer_in_span(request, texts, size, context, headers, tell)

    async def _answer_in_span(
        self, request: Any, texts: list[str], size: int, context: Any, headers: dict[str, str], tell: Tell
    ) -> Any:
        started, id, answer = time.perf_counter(), uuid.uuid4().hex, None
        left_s = context.time_remaining()
        budget_ms = self._service.budget_ms if left_s is None else max(1.0, 1000 * left_s * (1 - _WAY_BACK))
        code, told = grpc.StatusCode.OK, ""
        try:
            self._service.require_key(headers)
            if request.truncation_direction:
                raise Problem("invalid", "texts are cut at their end only: TRUNCATION_DIRECTION_RIGHT")
            # A bool that is absent is false here, so that false forbids nothing.
            wanted = Rerank(request.query, texts, logits=request.raw_scores)
            answer = await self._service.answer(wanted, None, id=id, size=size, started=started, budget_ms=budget_ms)
            if answer.failed:
                raise Problem("backend", f"the model gives NaN for the text {answer.failed[0]}")
            outcome = "complete" if answer.complete else "partial"
        except asyncio.CancelledError:  # the client has gone, or its deadline has passed
            seconds = time.perf_counter() - started
            self._service.metrics.count(GRPC, "cancelled", seconds)
            tell(log(id, GRPC, "cancelled", grpc.StatusCode.CANCELLED.value[0], None, seconds))
            raise
        except Exception as error:
            problem = problem_of(error, id)
            outcome = outcome_of(problem)
            code, told = _CODES.get(problem.kind, grpc.StatusCode.INVALID_ARGUMENT), problem.message
        seconds = time.perf_counter() - started
        self._service.metrics.count(GRPC, outcome, seconds)
        tell(log(id, GRPC, outcome, code.value[0], answer, seconds))
        if answer is None or told:
            return await context.abort(code, told)  # which raises
        status = (("x-rerank-status", outcome), ("x-rerank-scored", f"{answer.scored}/{answer.documents}"))
        context.set_trailing_metadata((*status, ("x-request-id", id)))
        ranks = [
            {"index": entry.index, "score": entry.score} | ({"text": texts[entry.index]} if request.return_text else {})
            for entry in answer.entries
        ]
        metadata = {
            "compute_chars": answer.characters,
            "compute_tokens": answer.tokens,
            "total_time_ns": int(answer.seconds * 1e9),
        }
        return message("RerankResponse")(ranks=ranks, metadata=metadata)


async def start(service: Service, host: str, port: int, *, shared: bool = False) -> tuple[grpc.aio.Server, int]:
    """A gRPC server that listens, and its port.

    Args:
        service: What answers.
        host: Where to listen.
        port: 0 for a free one.
        shared: Whether other processes listen there too.

    Raises:
        RuntimeError: If the address cannot be had.
    """
    servicer, reply = _Servicer(service), message("RerankResponse")
    calls = {
        "Rerank": grpc.unary_unary_rpc_method_handler(
            servicer.rerank, message("RerankRequest").FromString, reply.SerializeToString
        ),
        "RerankStream": grpc.stream_unary_rpc_method_handler(
            servicer.rerank_stream, message("RerankStreamRequest").FromString, reply.SerializeToString
        ),
    }
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", service.limits.body_bytes),
            ("grpc.so_reuseport", int(shared)),
        ]
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, calls),))
    reflection.enable_server_reflection((_SERVICE, reflection.SERVICE_NAME), server, _POOL)
    bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    await server.start()
    return server, bound

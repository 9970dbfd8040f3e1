"""A gRPC service: threads that share one model, the caller's deadline, a graceful end."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from crossrank import CrossEncoder, Overloaded

ADDRESS = "localhost:50051"

model = CrossEncoder(max_queue_tokens=200_000)


def rank(request: dict[str, Any], context: grpc.ServicerContext) -> dict[str, Any]:
    left_s = context.time_remaining()  # None if the caller has set no deadline
    try:
        ranking = model.rank(
            request["query"],
            request["documents"],
            top_k=10,
            deadline_ms=500 if left_s is None else max(1.0, 800 * left_s),  # the rest is for the way back
        )
    except Overloaded as error:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
    return {"hits": list(ranking), "complete": ranking.complete}


def serve() -> None:
    call = grpc.unary_unary_rpc_method_handler(rank, json.loads, lambda answer: json.dumps(answer).encode())
    handlers = [grpc.method_handlers_generic_handler("Reranker", {"Rank": call})]
    server = grpc.server(ThreadPoolExecutor(16), handlers=handlers)
    server.add_insecure_port(ADDRESS)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    model.warm_up()
    server.start()  # ready: from here on it is reachable
    stop.wait()
    server.stop(grace=10).wait()  # refuses new calls, lets those under way end
    model.close()


if __name__ == "__main__":
    serve()

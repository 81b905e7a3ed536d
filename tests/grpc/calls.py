"""A server and a client of gRPC, without generated code: messages are bytes.

    calls.py serve          prints its address
    calls.py call ADDRESS   makes every kind of call, and fails if one is not as it should be
"""
import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", "2"), ("x-bytes-bin", b"\x00\xff")))
    return request[::-1]


def fail(request, context):
    context.set_trailing_metadata((("x-why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so, 100%")


def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def gather(requests, context):
    return b",".join(requests)


def echo(requests, context):
    for request in requests:
        yield request


def remaining(request, context):
    return b"%f" % context.time_remaining()


def hang(request, context):
    cancelled.clear()
    context.add_callback(cancelled.set)
    yield b"begun"
    while context.is_active() and not cancelled.wait(0.05):
        pass


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


def serve():
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
        "Hang": grpc.unary_stream_rpc_method_handler(hang),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Calls", handlers),))
    print("127.0.0.1:%d" % server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def expect(what, found, wanted):
    assert found == wanted, "%s: %r, not %r" % (what, found, wanted)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("no error")


def call(address):
    with grpc.insecure_channel(address) as channel:
        first, status = channel.unary_unary("/test.Calls/Unary").with_call(b"abc", timeout=20)
        expect("unary", first, b"cba")
        expect("initial metadata", dict(status.initial_metadata())["x-first"], "1")
        last = dict(status.trailing_metadata())
        expect("trailers", (last["x-last"], last["x-bytes-bin"]), ("2", b"\x00\xff"))
        large = bytes(range(256)) * 8192
        expect("large", channel.unary_unary("/test.Calls/Unary")(large, timeout=20), large[::-1])
        error = failure(lambda: channel.unary_unary("/test.Calls/Fail")(b"", timeout=20))
        expect("status", (error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "not so, 100%"))
        expect("its trailers", dict(error.trailing_metadata())["x-why"], "because")
        numbers = list(channel.unary_stream("/test.Calls/Count")(b"100", timeout=20))
        expect("server streaming", numbers, [b"%d" % number for number in range(100)])
        gathered = channel.stream_unary("/test.Calls/Gather")(iter([b"a", b"b", b"c"]), timeout=20)
        expect("client streaming", gathered, b"a,b,c")
        # Each answer comes before the next question is asked.
        gate = threading.Semaphore(1)

        def questions():
            for number in range(10):
                assert gate.acquire(timeout=20)
                yield b"%d" % number

        answers = []
        for answer in channel.stream_stream("/test.Calls/Echo")(questions(), timeout=20):
            answers.append(answer)
            gate.release()
        expect("both ways", answers, [b"%d" % number for number in range(10)])
        left = float(channel.unary_unary("/test.Calls/Remaining")(b"", timeout=15))
        assert 0 < left < 20, "deadline: %f" % left
        hanging = channel.unary_stream("/test.Calls/Hang")(b"", timeout=60)
        expect("begun", next(hanging), b"begun")
        hanging.cancel()
        expect("cancelled", channel.unary_unary("/test.Calls/WasCancelled")(b"", timeout=20), b"yes")
        error = failure(lambda: list(channel.unary_stream("/test.Calls/Hang")(b"", timeout=0.3)))
        expect("too late", error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        error = failure(lambda: channel.unary_unary("/test.Calls/Unknown")(b"", timeout=20))
        expect("the server's own", error.code(), grpc.StatusCode.UNIMPLEMENTED)
        # Ravelin's own errors.
        error = failure(lambda: channel.unary_unary("/test.Dead/Unary")(b"", timeout=20))
        expect("nobody there", error.code(), grpc.StatusCode.UNAVAILABLE)
        assert error.details().startswith("502 Bad Gateway, request id "), error.details()
        error = failure(lambda: channel.unary_unary("/nowhere.Else/Unary")(b"", timeout=20))
        expect("no route", error.code(), grpc.StatusCode.UNIMPLEMENTED)
        assert error.details().startswith("404 Not Found"), error.details()
    print("all calls are as they should be")


if __name__ == "__main__":
    serve() if sys.argv[1] == "serve" else call(sys.argv[2])

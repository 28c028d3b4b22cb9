"""gRPC's interop cases from Python's grpcio, which is gRPC's C core: python interop.py HOST:PORT.

The cases and the messages are gRPC's (doc/interop-test-descriptions.md, src/proto/grpc/testing/messages.proto); the few messages are
written and read by hand here, so that nothing has to be generated. It prints the name of each case that held and ends with 1 at the first
that did not.
"""
import sys
import threading
import time

import grpc

SERVICE = "/grpc.testing.TestService/"


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def number(field, n):
    return varint(field << 3) + varint(n)


def data(field, b):
    return varint(field << 3 | 2) + varint(len(b)) + b


def payload(size):
    return data(2, bytes(size))


def read(b):
    """The fields of a message: the last value of each."""
    out, i = {}, 0

    def take():
        nonlocal i
        n = shift = 0
        while True:
            c = b[i]
            i += 1
            n |= (c & 127) << shift
            shift += 7
            if c < 128:
                return n

    while i < len(b):
        key = take()
        if key & 7 == 0:
            out[key >> 3] = take()
        else:
            assert key & 7 == 2, key
            size = take()
            out[key >> 3] = b[i:i + size]
            i += size
    return out


def body(response):
    """The length of a response's payload."""
    return len(read(read(response).get(1, b"")).get(2, b""))


def simple(size, request, more=b""):
    return number(2, size) + data(3, payload(request)) + more


def output(*sizes, request=None, more=b""):
    b = b"".join(data(2, number(1, s)) for s in sizes)
    if request is not None:
        b += data(3, payload(request))
    return b + more


def status(code, message):
    return data(7, number(1, code) + data(2, message.encode()))


class Client:
    def __init__(self, channel):
        self.unary = channel.unary_unary(SERVICE + "UnaryCall")
        self.empty = channel.unary_unary(SERVICE + "EmptyCall")
        self.unimplemented = channel.unary_unary(SERVICE + "UnimplementedCall")
        self.nowhere = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
        self.inputs = channel.stream_unary(SERVICE + "StreamingInputCall")
        self.outputs = channel.unary_stream(SERVICE + "StreamingOutputCall")
        self.duplex = channel.stream_stream(SERVICE + "FullDuplexCall")


def code(call):
    """The status of a call that must fail."""
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    raise AssertionError("the call did not fail")


def empty_unary(c):
    assert c.empty(b"", timeout=20) == b""


def large_unary(c):
    assert body(c.unary(simple(314159, 271828), timeout=20)) == 314159


def client_streaming(c):
    sizes = (27182, 8, 1828, 45904)
    assert read(c.inputs(iter([data(1, payload(s)) for s in sizes]), timeout=20)).get(1) == sum(sizes)


def server_streaming(c):
    sizes = (31415, 9, 2653, 58979)
    assert [body(r) for r in c.outputs(output(*sizes), timeout=20)] == list(sizes)


def ping_pong(c):
    turn = threading.Semaphore(1)
    sizes, requests = (31415, 9, 2653, 58979), (27182, 8, 1828, 45904)

    def ask():
        for size, request in zip(sizes, requests):
            turn.acquire()
            yield output(size, request=request)

    got = []
    for r in c.duplex(ask(), timeout=20):
        got.append(body(r))
        turn.release()
    assert got == list(sizes), got


def empty_stream(c):
    assert list(c.duplex(iter([]), timeout=20)) == []


def timeout_on_sleeping_server(c):
    never = threading.Event()

    def ask():
        yield output(31415, request=27182)
        never.wait(5)

    # The service has the same deadline and ends the stream by RST_STREAM(CANCEL) then. gRPC's core compares whole
    # milliseconds: where that comes within the one of its own deadline, it takes it for somebody who cancelled.
    try:
        for _ in range(5):
            begun = time.monotonic()
            got = code(lambda: list(c.duplex(ask(), timeout=0.05)))
            took = time.monotonic() - begun
            if got[0] == grpc.StatusCode.DEADLINE_EXCEEDED:
                return
            assert got[0] == grpc.StatusCode.CANCELLED and 0.045 < took < 0.1, (got, took)
        raise AssertionError(got)
    finally:
        never.set()


def cancel_after_begin(c):
    never = threading.Event()

    def ask():
        never.wait(5)
        yield b""

    call = c.inputs.future(ask(), timeout=20)
    call.cancel()
    never.set()
    assert call.code() == grpc.StatusCode.CANCELLED


def cancel_after_first_response(c):
    never = threading.Event()

    def ask():
        yield output(31415, request=27182)
        never.wait(5)

    call = c.duplex(ask(), timeout=20)
    assert body(next(call)) == 31415
    call.cancel()
    never.set()
    assert code(lambda: next(call))[0] == grpc.StatusCode.CANCELLED


def status_code_and_message(c):
    want = (grpc.StatusCode.UNKNOWN, "test status message")
    ask = status(2, want[1])
    assert code(lambda: c.unary(simple(1, 1, ask), timeout=20)) == want
    assert code(lambda: list(c.duplex(iter([output(more=ask)]), timeout=20))) == want


def special_status_message(c):
    message = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
    assert code(lambda: c.unary(status(2, message), timeout=20)) == (grpc.StatusCode.UNKNOWN, message)


def custom_metadata(c):
    sent = (("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))

    def check(call):
        assert sent[0] in [(m.key, m.value) for m in call.initial_metadata()]
        assert sent[1] in [(m.key, m.value) for m in call.trailing_metadata()]

    r, call = c.unary.with_call(simple(314159, 271828), timeout=20, metadata=sent)
    assert body(r) == 314159
    check(call)
    call = c.duplex(iter([output(314159, request=271828)]), timeout=20, metadata=sent)
    assert [body(r) for r in call] == [314159]
    check(call)


def unimplemented_method(c):
    assert code(lambda: c.unimplemented(b"", timeout=20))[0] == grpc.StatusCode.UNIMPLEMENTED


def unimplemented_service(c):
    assert code(lambda: c.nowhere(b"", timeout=20))[0] == grpc.StatusCode.UNIMPLEMENTED


CASES = (empty_unary, large_unary, client_streaming, server_streaming, ping_pong, empty_stream, timeout_on_sleeping_server, cancel_after_begin,
         cancel_after_first_response, status_code_and_message, special_status_message, custom_metadata, unimplemented_method, unimplemented_service)

if __name__ == "__main__":
    with grpc.insecure_channel(sys.argv[1], options=(("grpc.enable_http_proxy", 0),)) as channel:
        client = Client(channel)
        for case in CASES:
            case(client)
            print(case.__name__, flush=True)

"""What an application does with redis-py, in both versions of the protocol."""

import sys

import redis

host, port, password, prefix = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def expect(what, found, wanted):
    assert found == wanted, f"{what}: {found!r} instead of {wanted!r}"


def fails(what, error, contains, call):
    try:
        call()
    except error as e:
        assert contains in str(e), f"{what}: {e}"
    else:
        raise AssertionError(f"{what} did not fail")


for protocol in (2, 3):
    r = redis.Redis(host=host, port=port, password=password, protocol=protocol, decode_responses=True)
    p = f"{prefix}:{protocol}:"
    expect("PING", r.ping(), True)
    expect("SET", r.set(p + "a", "ä value"), True)
    expect("GET", r.get(p + "a"), "ä value")
    expect("GET of nothing", r.get(p + "none"), None)
    expect("SET NX", r.set(p + "a", "other", nx=True), None)
    expect("MSET", r.mset({p + "b": "1", p + "c": "2"}), True)
    expect("MGET", r.mget(p + "b", p + "none", p + "c"), ["1", None, "2"])
    expect("EXISTS", r.exists(p + "a", p + "b", p + "none"), 2)
    expect("INCR", [r.incr(p + "n"), r.incrby(p + "n", 41)], [1, 42])
    fails("INCR of text", redis.ResponseError, "not an integer", lambda: r.incr(p + "a"))
    pipe = r.pipeline(transaction=False)
    for n in range(200):
        pipe.set(f"{p}p{n}", n).get(f"{p}p{n}")
    expect("a pipeline", pipe.execute(), [x for n in range(200) for x in (True, str(n))])
    pipe = r.pipeline(transaction=False)
    pipe.set(p + "d", "1").incr(p + "a").get(p + "d")
    mixed = pipe.execute(raise_on_error=False)
    assert mixed[0] is True and isinstance(mixed[1], redis.ResponseError) and mixed[2] == "1", mixed
    expect("DEL", r.delete(p + "a", p + "b", p + "none"), 2)
    fails("an unknown command", redis.ResponseError, "unknown command", lambda: r.execute_command("NONSENSE"))
    binary = redis.Redis(host=host, port=port, password=password, protocol=protocol)
    blob = bytes(range(256))
    binary.set(p + "blob", blob)
    expect("bytes", binary.get(p + "blob"), blob)
    wrong = redis.Redis(host=host, port=port, password="wrong", protocol=protocol)
    fails("a wrong password", redis.exceptions.AuthenticationError, "", wrong.ping)
print("ok")

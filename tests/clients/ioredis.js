// What an application does with ioredis.
"use strict";

const assert = require("node:assert/strict");
const Redis = require("ioredis");

const [host, port, password, prefix] = process.argv.slice(2);
const options = { host, port: Number(port), retryStrategy: null, maxRetriesPerRequest: 0 };

async function main() {
  const r = new Redis({ ...options, password });
  assert.equal(await r.ping(), "PONG");
  assert.equal(await r.set(`${prefix}:a`, "ä value"), "OK");
  assert.equal(await r.get(`${prefix}:a`), "ä value");
  assert.equal(await r.get(`${prefix}:none`), null);
  assert.equal(await r.mset(`${prefix}:b`, "1", `${prefix}:c`, "2"), "OK");
  assert.deepEqual(await r.mget(`${prefix}:b`, `${prefix}:none`, `${prefix}:c`), ["1", null, "2"]);
  assert.equal(await r.exists(`${prefix}:a`, `${prefix}:b`, `${prefix}:none`), 2);
  assert.equal(await r.incr(`${prefix}:n`), 1);
  assert.equal(await r.incrby(`${prefix}:n`, 41), 42);
  await assert.rejects(r.incr(`${prefix}:a`), /not an integer/);
  const pipe = r.pipeline();
  const wanted = [];
  for (let n = 0; n < 200; n++) {
    pipe.set(`${prefix}:p${n}`, n).get(`${prefix}:p${n}`);
    wanted.push([null, "OK"], [null, String(n)]);
  }
  assert.deepEqual(await pipe.exec(), wanted);
  const blob = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  await r.set(`${prefix}:blob`, blob);
  assert.deepEqual(await r.getBuffer(`${prefix}:blob`), blob);
  assert.equal(await r.del(`${prefix}:a`, `${prefix}:b`, `${prefix}:none`), 2);
  await assert.rejects(r.call("NONSENSE"), /unknown command/);
  r.disconnect();

  const wrong = new Redis({ ...options, password: "wrong" });
  wrong.on("error", () => {});
  await assert.rejects(wrong.ping());
  wrong.disconnect();
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { get, send } from "../../service/page/api.js";

/** @type {{path: string, request: RequestInit}[]} */
const asked = [];

beforeEach(() => {
  asked.length = 0;
  globalThis.fetch = (path, request = {}) => {
    asked.push({ path: String(path), request });
    return Promise.resolve(Response.json({ loss: 0.5 }));
  };
});

test("what people try here is sent as a trial, so that no model is judged by it", async () => {
  const { body } = await send("loss", { logits: [[1, 2]], labels: [1] });
  await send("predict", '{"features": [[1]]}');
  assert.deepEqual(body, { loss: 0.5 });
  assert.deepEqual(asked.map(({ path }) => path), ["loss", "predict"]);
  for (const { request } of asked) {
    const headers = new Headers(request.headers);
    assert.equal(request.method, "POST");
    assert.equal(headers.get("x-trial"), "1");
    assert.equal(headers.get("content-type"), "application/json");
  }
  assert.equal(asked[1].request.body, '{"features": [[1]]}');
});

test("what is only read is no trial", async () => {
  await get("models");
  assert.equal(new Headers(asked[0].request.headers).get("x-trial"), null);
});

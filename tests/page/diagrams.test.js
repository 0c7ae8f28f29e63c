import assert from "node:assert/strict";
import { test } from "node:test";

import { clipped, short } from "../../service/page/diagrams.js";

test("counts in a small square have at most four characters", () => {
  assert.deepEqual([0, 7, 999, 1000, 1949, 13_421, 999_499].map((value) => short(value)), ["0", "7", "999", "1k", "1.9k", "13k", "999k"]);
  assert.deepEqual([999_500, 1e6, 2_340_000, 45e6].map((value) => short(value)), ["1M", "1M", "2.3M", "45M"]);
  assert.equal(short(3706, true), "4k");
});

test("long names are clipped, numbers are names too", () => {
  assert.equal(clipped("hippopotamus"), "hippopot…");
  assert.equal(clipped("zero"), "zero");
  assert.equal(clipped(999), "999");
});

/** Files that numpy wrote (`arrays.py` makes them), and files that somebody made to do harm. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { constants, deflateRawSync } from "node:zlib";

import { MOST_NUMBERS, readFile, readNpy, readNpz } from "../../service/page/files.js";

/** @type {Record<string, string>} */
const FILES = JSON.parse(readFileSync(new URL("arrays.json", import.meta.url), "utf-8"));
const ROWS = [[1, 2, 3], [4, 5, 100]];

/** @param {Uint8Array} bytes in a buffer of its own */
const exact = (bytes) => new Uint8Array(bytes).buffer;
/** @param {string} text */
const utf8 = (text) => exact(new TextEncoder().encode(text));
/** @param {string} name */
function numpys(name) {
  const written = FILES[name];
  assert.ok(written, name);
  return exact(Buffer.from(written, "base64"));
}

/**
 * An npy file by hand: a header that says anything at all, and bytes.
 * @param {string} header
 * @param {Uint8Array} [data]
 */
function npy(header, data = new Uint8Array()) {
  const start = Buffer.from("\x93NUMPY\x01\x00..", "latin1");
  start.writeUInt16LE(header.length, 8);
  return Buffer.concat([start, Buffer.from(header), data]);
}

/** @param {string} shape @param {string} [descr] */
const headed = (shape, descr = "<f8") => `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }\n`;

/**
 * A zip archive by hand, of one member, with any lie in its directory.
 * @param {Buffer} packed
 * @param {{name?: string, method?: number, says?: Partial<Record<"packed" | "size" | "nameLength" | "local" | "directory", number>>}} [how]
 */
function zip(packed, { name = "logits.npy", method = 8, says = {} } = {}) {
  const local = Buffer.alloc(30);
  local.writeUInt32LE(0x04034b50, 0);
  local.writeUInt16LE(name.length, 26);
  const entry = Buffer.alloc(46);
  entry.writeUInt32LE(0x02014b50, 0);
  entry.writeUInt16LE(method, 10);
  entry.writeUInt32LE(says.packed ?? packed.length, 20);
  entry.writeUInt32LE(says.size ?? 0, 24);
  entry.writeUInt16LE(says.nameLength ?? name.length, 28);
  entry.writeUInt32LE(says.local ?? 0, 42);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt32LE(says.directory ?? 30 + name.length + packed.length, 16);
  return exact(Buffer.concat([local, Buffer.from(name), packed, entry, Buffer.from(name), end]));
}

test("every kind of integer is read, in both byte orders", () => {
  const codes = ["i1", "u1", ...["<", ">"].flatMap((order) => ["i2", "u2", "i4", "u4", "i8", "u8"].map((kind) => order + kind))];
  for (const code of codes) assert.deepEqual(readNpy(numpys(code)), { shape: [2, 3], values: ROWS.flat() }, code);
  assert.deepEqual(readNpy(numpys("extremes")).values, [-(2 ** 31), 2 ** 31 - 1]);
  assert.deepEqual(readNpy(numpys("bool")).values, [1, 0]);
});

test("every kind of float is read, with NaN and infinities", () => {
  for (const code of ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"]) {
    const { values } = readNpy(numpys(code));
    assert.deepEqual(values.toSpliced(2, 1), [0.5, -2, NaN, Infinity, -Infinity], code);
    assert.equal(values[2], code.endsWith("2") ? 0.0999755859375 : 0.1, code);
  }
});

test("a float16 is read at both ends of its range", () => {
  assert.deepEqual(readNpy(numpys("tiny")).values, [2 ** -24, -(2 ** -14), 65504, -0]);
});

test("a float32 is written as short as it can be, and is the same float32", () => {
  const values = [0.1, 1 / 3, 16777216, 1.17549435e-38, 1e-45, 3.4028235e38, 8.589973e9, 0.12345679, -0.7].map(Math.fround);
  const read = readNpy(exact(npy(headed("9,", "<f4"), new Uint8Array(Float32Array.from(values).buffer)))).values;
  assert.deepEqual(read.map(Math.fround), values);
  for (const value of read) assert.equal(Number(value.toPrecision(9)), value);
});

test("any shape has its rows on the last axis", async () => {
  const rowsIn = async (/** @type {string} */ name) => (await readFile("a.npy", numpys(name))).rows;
  assert.deepEqual(await rowsIn("scalar"), [[1.5]]);
  assert.deepEqual(await rowsIn("vector"), [[1, 2]]);
  assert.deepEqual(await rowsIn("cube"), [[0, 1], [2, 3], [4, 5], [6, 7]]);
  assert.deepEqual(await rowsIn("empty"), []);
  assert.deepEqual(await rowsIn("<f8"), [[0.5, -2, 0.1], ["NaN", "Infinity", "-Infinity"]]);
});

test("all versions of the format are read", () => {
  for (const name of ["version 2", "version 3"]) assert.deepEqual(readNpy(numpys(name)).values, ROWS.flat());
});

test("what cannot be read is refused with what to do", () => {
  assert.throws(() => readNpy(numpys("fortran")), /Fortran order: save numpy\.ascontiguousarray/);
  for (const name of ["object", "text", "structure"]) assert.throws(() => readNpy(numpys(name)), /no plain numbers/, name);
  assert.throws(() => readNpy(numpys("complex")), /c16 .* save it as float32 or float64/);
  assert.throws(() => readNpy(utf8("1,2,3\n4,5,6")), /no npy file/);
  assert.throws(() => readNpy(new ArrayBuffer(0)), /no npy file/);
});

test("a file that is cut anywhere is refused in words", async () => {
  const whole = numpys("<f8");
  for (let length = 0; length < whole.byteLength; length += 1) {
    assert.throws(() => readNpy(whole.slice(0, length)), /no npy file|ends before its array/, String(length));
  }
  for (const name of ["stored.npz", "deflated.npz"]) {
    const archive = numpys(name);
    for (let length = 0; length < archive.byteLength; length += 7) {
      await assert.rejects(readNpz(archive.slice(0, length)), /no npz file|damaged/, `${name} ${length}`);
    }
  }
});

test("a header that lies is refused in words", () => {
  for (const shape of ["-2, -3", "1e3,", "Infinity,", "'x',", "0x10,", "2, 3"]) {
    assert.throws(() => readNpy(exact(npy(headed(shape)))), /no plain numbers|ends before its array/, shape);
  }
  assert.throws(() => readNpy(exact(npy(headed("9".repeat(300))))), /takes up to 200,000 numbers/);
  assert.throws(() => readNpy(exact(npy("'shape': (".repeat(6000)))), /header is too long/);
});

test("as many numbers as the page takes are read, and not one more", async () => {
  const full = npy(headed(`${MOST_NUMBERS},`), Buffer.alloc(MOST_NUMBERS * 8));
  const [row] = (await readFile("a.npy", exact(full))).rows;
  assert.equal(row?.length, MOST_NUMBERS);
  for (const [packed, method] of /** @type {const} */ ([[full, 0], [deflateRawSync(full), 8]])) {
    assert.equal((await readNpz(zip(packed, { method }))).rows[0]?.length, MOST_NUMBERS);
  }
  const more = npy(headed(`2, ${MOST_NUMBERS / 2 + 1}`, "|i1"), Buffer.alloc(MOST_NUMBERS + 2));
  const refusal = /up to 200,000 numbers, the file has 200,002: send it to the API/;
  await assert.rejects(readFile("a.npy", exact(more)), refusal);
  await assert.rejects(readFile("a.npz", zip(deflateRawSync(more))), refusal);
});

test("archives are read, stored or deflated, with labels by index or one-hot", async () => {
  for (const name of ["stored.npz", "deflated.npz"]) assert.deepEqual(await readNpz(numpys(name)), { rows: ROWS, labels: [2, 0] });
  assert.deepEqual(await readNpz(numpys("one-hot.npz")), { rows: ROWS, labels: [1, 2] });
});

test("features or the only array are read, whatever lies beside them", async () => {
  // An array of objects, which would be refused if it were unpacked.
  assert.ok(Buffer.from(numpys("features.npz")).includes("ids.npy"));
  assert.deepEqual(await readFile("a.npz", numpys("features.npz")), { rows: ROWS });
  assert.deepEqual(await readFile("a.npz", numpys("only.npz")), { rows: ROWS });
  await assert.rejects(readNpz(numpys("two.npz")), /Expected an array logits or features in the archive, found left, right\./);
  await assert.rejects(readNpz(zip(Buffer.alloc(0), { name: "readme.txt" })), /found none/);
});

test("an archive whose directory lies is refused in words", async () => {
  const packed = deflateRawSync(npy(headed("1,"), Buffer.alloc(8)));
  assert.deepEqual((await readNpz(zip(packed))).rows, [[0]]);
  for (const says of [{ packed: 2 ** 32 - 1 }, { packed: 3 }, { nameLength: 65_535 }, { local: 2 ** 32 - 1 }, { local: 50 }]) {
    await assert.rejects(readNpz(zip(packed, { says })), /damaged/, JSON.stringify(says));
  }
  for (const directory of [2 ** 32 - 1, 0]) await assert.rejects(readNpz(zip(packed, { says: { directory } })), /found none/);
  assert.deepEqual((await readNpz(zip(packed, { says: { size: 2 ** 32 - 1 } }))).rows, [[0]]);
});

test("what no deflate stream is, or is packed otherwise, is refused in words", async () => {
  await assert.rejects(readNpz(zip(Buffer.from("\xff\xff\xff\xff no deflate", "latin1"))), /damaged/);
  await assert.rejects(readNpz(zip(Buffer.alloc(9), { method: 12 })), /packed in a way .* numpy\.savez_compressed/);
});

test("a deflate bomb is unpacked to the bound and no further", async () => {
  const flush = { finishFlush: constants.Z_FULL_FLUSH };
  const zeros = deflateRawSync(Buffer.alloc(2 ** 20), flush);
  // 16 GiB of zeros behind an honest header, then a huge array that says what it is.
  for (const [shape, outcome] of /** @type {const} */ ([["2,", "read"], [`${2 ** 31},`, "refused"]])) {
    const start = deflateRawSync(npy(headed(shape)), flush);
    const bomb = zip(Buffer.concat([start, ...Array.from({ length: 2 ** 14 }, () => zeros)]));
    const before = process.memoryUsage().rss;
    if (outcome === "read") assert.deepEqual((await readNpz(bomb)).rows, [[0, 0]]);
    else await assert.rejects(readNpz(bomb), /the file has 2,147,483,648/);
    assert.ok(process.memoryUsage().rss - before < 2 ** 28, "memory");
  }
});

test("text files are rows, by any name", async () => {
  assert.deepEqual(await readFile("a.csv", utf8("\ufeffcat,dog\r\n1,2\r\n")), { rows: [[1, 2]], names: ["cat", "dog"] });
  assert.deepEqual(await readFile("a.json", utf8('{"logits": [[1, 2]], "labels": [1]}')), { rows: [[1, 2]], labels: [1] });
  assert.deepEqual(await readFile("a", utf8("1 2")), { rows: [[1, 2]] });
});

test("text that is neither rows nor small is refused", async () => {
  await assert.rejects(readFile("a.json", utf8('{"weights": 1}')), /neither JSON of rows nor a request/);
  const ragged = `1\n${"2 ".repeat(MOST_NUMBERS)}`;
  await assert.rejects(readFile("a.txt", utf8(ragged)), /the file has 200,001/);
});

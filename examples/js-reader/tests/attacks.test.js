/** No bytes give anything but a message or a refusal with a code of SPEC.md: [E-1], [E-3]. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FormatError } from '../src/errors.js';
import { parseJson } from '../src/json.js';
import { readMessage } from '../src/reader.js';
import { stringify, toTwin } from '../src/twin.js';
import { SCHEMA, VECTORS, bytesOf } from './vectors.js';

const CODES = new Set(Object.values(SCHEMA.clauses).flatMap((clause) => clause.codes));
const LIMITS = Object.fromEntries(
  ['message_nbytes', 'decompressed_nbytes', 'tensor_nbytes', 'metadata_nbytes'].map((name) => [name, 2 ** 20]),
);
const SEEDS = ['tags', 'dictionary-repeat', 'lz4', 'batches', 'chunks'].map((name) => (
  bytesOf(VECTORS.find((vector) => vector.name === name))));

function refusedOrRead(bytes) {
  try {
    readMessage(bytes, LIMITS);
    return 'read';
  } catch (error) {
    if (error instanceof FormatError && CODES.has(error.code)) return 'refused';
    throw error;
  }
}

test('a stream cut anywhere is refused', () => {
  for (const seed of SEEDS) {
    for (let size = 0; size < seed.length; size += 13) assert.equal(refusedOrRead(seed.slice(0, size)), 'refused');
  }
});

test('a changed byte is read or refused', () => {
  let refused = 0;
  let cases = 0;
  for (const seed of SEEDS) {
    for (let at = 0; at < seed.length; at += 7) {
      const bytes = seed.slice();
      bytes[at] ^= 1 << (at % 8);
      refused += refusedOrRead(bytes) === 'refused';
      cases += 1;
    }
  }
  assert.ok(cases > 1000 && refused > cases / 4, `${refused} of ${cases}`);
});

test('a message that stands at an odd byte is read too', () => {
  for (const seed of SEEDS) {
    const memory = new Uint8Array(seed.length + 3);
    memory.set(seed, 3);
    assert.equal(stringify(toTwin(readMessage(memory.subarray(3)))), stringify(toTwin(readMessage(seed))));
  }
});

test('a plain tensor of one chunk is a view of the message', () => {
  const bytes = bytesOf(VECTORS.find(({ name }) => name === 'float8-bits'));
  const { tensors } = readMessage(bytes).items[0];
  assert.ok([...tensors.values()].some((tensor) => tensor.bytes.buffer === bytes.buffer));
});

test('a dictionary tensor takes its memory when it is asked for', () => {
  const { tensors } = readMessage(bytesOf(VECTORS.find(({ name }) => name === 'dictionary'))).items[0];
  const [tensor] = tensors.values();
  assert.equal(typeof Object.getOwnPropertyDescriptor(tensor, 'bytes').get, 'function');
  assert.equal(tensor.bytes.length, tensor.nbytes);
});

test('attributes of many megabytes neither overflow the stack nor crawl', () => {
  const options = { code: 'attributes', numberCode: 'attributes-value', maxDepth: 64 };
  const size = 2 ** 24;
  assert.equal(parseJson(`"${'a'.repeat(size)}"`, options).length, size);
  for (const text of [`"${'a'.repeat(size)}`, `"${'\\'.repeat(size + 1)}"`, '9'.repeat(size), '['.repeat(size)]) {
    assert.throws(() => parseJson(text, options), FormatError);
  }
});

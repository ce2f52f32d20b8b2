/** Clauses that no golden vector holds yet: a valid one with a few bytes changed. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readMessage } from '../src/reader.js';
import { VECTORS, bytesOf } from './vectors.js';

/** The bytes of a valid vector in which `before` is replaced by `after`, of the same length. */
function patched(name, before, after) {
  const bytes = Buffer.from(bytesOf(VECTORS.find((vector) => vector.kind === 'valid' && vector.name === name)));
  const at = bytes.indexOf(before, 0, 'latin1');
  assert.ok(at > 0 && before.length === after.length, `${before} in ${name}`);
  bytes.write(after, at, 'latin1');
  return bytes;
}

for (const [about, code, name, before, after] of [
  ['another name of a list element', 'schema', 'empty', 'range', 'ranks'],
  ['a version of 0', 'no-version', 'empty', '\x01\0\0\x001\0', '\x01\0\0\x000\0'],
  ['text in the schema without its zero', 'metadata', 'empty', 'extent\0', 'extent!'],
  ['a scalar bool of 2', 'attributes-value', 'scalars', '"bool","AQ=="', '"bool","Ag=="'],
  ['base64 with bits left over', 'json', 'scalars', '"bool","AQ=="', '"bool","AR=="'],
  ['white space', 'json', 'request-only', '"x":1', '"x": '],
  ['parameters that are no integers', 'parameters', 'dictionary', '"axis":1', '"axis":t'],
  ['a match offset of 0 in LZ4', 'compression', 'lz4', ',\x1f\x15\x01\0,\x1f\x16\x01\0', ',\x1f\x15\x01\0,\x1f\0\0\0'],
  ['a key that nobody knows, of any bytes', null, 'foreign-schema', 'made.by', 'made\xff\xfey'],
]) {
  test(`${about}: ${code ?? 'read'}`, () => {
    const bytes = patched(name, before, after);
    const read = () => readMessage(bytes);
    if (code) assert.throws(read, { code });
    else assert.ok(read().items);
  });
}

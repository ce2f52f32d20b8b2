/** Frames of lz4 1.9's own library, with every optional part, and broken ones. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeFrame, measureFrame } from '../src/lz4.js';
import { xxh32 } from '../src/xxh32.js';

const frame = (hex) => new Uint8Array(Buffer.from(hex, 'hex'));
const TEXT = 'abc'.repeat(30);
const SUMS = '04224d1878405a000000000000005f0d0000003f61626303003f506263616263ae7928bf00000000';
const CONTENT = '04224d186c405a00000000000000310d0000003f61626303003f50626361626300000000426dcc47';
const PLAIN = '04224d1868405a00000000000000ec0d0000003f61626303003f50626361626300000000';

test('frames with block checksums, with a content checksum, with neither', () => {
  for (const hex of [SUMS, CONTENT, PLAIN]) {
    assert.equal(Buffer.from(decodeFrame(frame(hex))).toString(), TEXT);
    assert.equal(measureFrame(frame(hex), 90), 90);
  }
});

test('xxHash of nothing and of text', () => {
  assert.equal(xxh32(new Uint8Array(0)), 0x02cc5d05);
  assert.equal(xxh32(Buffer.from('Nobody inspects the spammish repetition')), 0xe2293b2f);
});

test('another length than the claimed one', () => {
  for (const length of [0, 89, 91]) assert.throws(() => measureFrame(frame(PLAIN), length), { code: 'compression' });
});

test('every byte of a checked frame counts', () => {
  const bytes = frame(CONTENT);
  for (let at = 0; at < bytes.length; at++) {
    const broken = bytes.slice();
    broken[at] ^= 0x10;
    assert.throws(() => decodeFrame(broken), { code: 'compression' }, `byte ${at}`);
  }
  for (let size = 0; size < bytes.length; size++) {
    assert.throws(() => decodeFrame(bytes.slice(0, size)), { code: 'compression' });
  }
});

test('a match from before the first byte, and bytes behind the frame', () => {
  const before = '04224d18604082' + '0a000000' + '1041ff00' + '500102030405' + '00000000';
  assert.throws(() => decodeFrame(frame(before)), { code: 'compression', message: /matches inside/ });
  assert.throws(() => decodeFrame(frame(`${PLAIN}00`)), { code: 'compression' });
});

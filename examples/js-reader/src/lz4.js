/**
 * LZ4 frames, for apache-arrow's registry of codecs, which holds none of its own: [Z-1] to [Z-3].
 *
 * Written here, because what npm offers does not do for bytes of a stranger: lz4js reads matches from before the first
 * byte as zeros and misplaces block checksums; lz4-napi is native and has no limit for what it allocates.
 */

import { CompressionType, compressionRegistry } from 'apache-arrow';
import { refuse } from './errors.js';
import { xxh32 } from './xxh32.js';

const bad = (what) => refuse('compression', `an LZ4 frame with ${what}`);

/** Walk a frame without writing a byte; refuse it if it is broken or not of `expected` bytes. */
export function measureFrame(bytes, expected = Infinity) {
  const length = walk(bytes, null, expected);
  if (expected !== Infinity && length !== expected) bad(`${expected} bytes, not ${length}`);
  return length;
}

/** The bytes of a frame, in new memory of exactly their length. */
export function decodeFrame(bytes) {
  const out = new Uint8Array(measureFrame(bytes));
  walk(bytes, out, out.length);
  return out;
}

export const registerLz4 = () => compressionRegistry.set(CompressionType.LZ4_FRAME, { decode: decodeFrame });

/** Go through a frame's blocks; write to `out` unless it is null; return the number of bytes. */
function walk(bytes, out, limit) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u32 = (at) => (at + 4 <= bytes.length ? view.getUint32(at, true) : bad('all its bytes'));
  if (u32(0) !== 0x184d2204) bad('its magic number');
  const flags = bytes[4];
  const blockSize = { 4: 2 ** 16, 5: 2 ** 18, 6: 2 ** 20, 7: 2 ** 22 }[bytes[5] >> 4];
  if (flags >> 6 !== 1 || flags & 2 || !blockSize || bytes[5] & 0x8f) bad('known flags');
  if (flags & 1) bad('no dictionary');
  const [independent, blockSums, hasSize, contentSum] = [flags & 32, flags & 16, flags & 8, flags & 4];
  let at = 6 + (hasSize ? 8 : 0);
  if (at >= bytes.length || bytes[at] !== ((xxh32(bytes.subarray(4, at)) >>> 8) & 255)) bad('its header checksum');
  at += 1;

  let end = 0;
  for (let word = u32(at); word !== 0; word = u32(at)) {
    const stored = word >>> 31 === 1;
    const size = word & 0x7fffffff;
    const block = bytes.subarray(at + 4, at + 4 + size);
    if (block.length !== size || size > blockSize) bad('blocks of the announced size');
    const start = end;
    if (stored) {
      if (end + size > limit) bad(`${limit} bytes, not more`);
      out?.set(block, end);
      end += size;
    } else {
      end = walkBlock(block, out, end, Math.min(limit, end + blockSize), independent ? end : Math.max(0, end - 65536));
    }
    if (end - start > blockSize) bad('blocks of the announced size');
    at += 4 + size;
    if (blockSums) {
      if (u32(at) !== xxh32(block)) bad('its block checksums');
      at += 4;
    }
  }
  at += 4;
  if (contentSum) {
    const sum = u32(at);
    if (out && sum !== xxh32(out)) bad('its content checksum');
    at += 4;
  }
  if (at !== bytes.length) bad('nothing behind it');
  if (hasSize && view.getBigUint64(6, true) !== BigInt(end)) bad('the size in its header');
  return end;
}

/** One block of sequences, whose matches reach back to `floor` and whose bytes end at `limit`. */
function walkBlock(block, out, end, limit, floor) {
  let at = 0;
  const length = (nibble) => {
    let sum = nibble;
    if (nibble === 15) {
      let byte = 255;
      while (byte === 255) {
        if (at >= block.length) bad('whole sequences');
        sum += byte = block[at++];
      }
    }
    return sum;
  };
  for (;;) {
    if (at >= block.length) bad('whole sequences');
    const token = block[at++];
    const literals = length(token >> 4);
    if (at + literals > block.length) bad('whole sequences');
    if (end + literals > limit) bad(`${limit} bytes, not more`);
    out?.set(block.subarray(at, at + literals), end);
    at += literals;
    end += literals;
    if (at === block.length) return end;
    if (at + 2 > block.length) bad('whole sequences');
    const offset = block[at] | (block[at + 1] << 8);
    at += 2;
    const match = length(token & 15) + 4;
    if (offset === 0 || end - offset < floor) bad('matches inside it');
    if (end + match > limit) bad(`${limit} bytes, not more`);
    // A match may reach into itself, so bytes are copied one by one where it does.
    if (out && offset >= match) out.copyWithin(end, end - offset, end - offset + match);
    else if (out) for (let k = end; k < end + match; k++) out[k] = out[k - offset];
    end += match;
  }
}

/**
 * The one comparison: a batch's arrays and buffers against what its structure implies (step 4 of SPEC.md, section 10).
 *
 * When this is done, every buffer lies inside the body, none overlaps another, and every length is the one that the
 * columns need, so that a library which checks none of that (apache-arrow's loader) may be given the bytes.
 */

import { refuse } from './errors.js';
import { measureFrame } from './lz4.js';
import { COLUMNS, within } from './schema.js';
import { decodeZstd } from './zstd.js';

/** The 21 arrays in the order of Arrow's field nodes, each with the index of its parent. */
const ARRAYS = [];
(function flatten(fields, parent) {
  for (const field of fields) {
    const index = ARRAYS.push({ ...field, parent }) - 1;
    flatten(field.children, index);
  }
})(COLUMNS, -1);

// Lengths of the buffers behind the validity bitmap, for n elements; null where offsets say how long the text is.
const SIZES = {
  int32: (n) => [4 * n],
  int64: (n) => [8 * n],
  utf8: (n) => [4 * (n + 1), null],
  list: (n) => [4 * (n + 1)],
  struct: () => [],
  binary_view: (n) => [16 * n],
};
const COLUMN_BUFFERS = ARRAYS.reduce((sum, { kind }) => sum + 1 + SIZES[kind](0).length, 0);
const align = (value, to) => Math.ceil(value / to) * to;

/** Check one batch; `spent` carries what earlier batches took of the limits. */
export function checkLayout({ header, body }, limits, spent) {
  const compression = header.table(3);
  if (compression && (compression.uint8(0) > 1 || compression.uint8(1) !== 0)) {
    const got = `codec ${compression.uint8(0)}, method ${compression.uint8(1)}`;
    refuse('compression-codec', 'LZ4_FRAME or ZSTD by buffers', got);
  }
  const codec = compression ? CODECS[compression.uint8(0)] : null;
  const nodes = header.int64s(1, 2);
  const regions = header.int64s(2, 2);
  const variadic = header.int64s(4);
  if (nodes.length !== ARRAYS.length) refuse('array-count', `${ARRAYS.length} arrays`, nodes.length);
  if (variadic.length !== 1 || regions.length !== COLUMN_BUFFERS + variadic[0][0]) {
    refuse('array-count', `${COLUMN_BUFFERS} buffers and those of one view column`, `${regions.length}, ${variadic}`);
  }
  if (header.int64(0) !== nodes[0][0]) refuse('array-count', `${nodes[0][0]} rows`, header.int64(0));

  checkPlaces(regions, body);
  const buffers = regions.map(([offset, length]) => body.subarray(offset, offset + length));
  const lengths = codec ? buffers.map((buffer) => claimedLength(buffer, codec)) : buffers.map((buffer) => buffer.length);
  checkLengths(nodes, lengths);

  const columns = lengths.slice(0, COLUMN_BUFFERS).reduce((sum, length) => align(sum, 8) + length, 0);
  within(limits, 'metadata_nbytes', align(columns, 64));
  within(limits, 'tensors', (spent.tensors += nodes[ARRAYS.findIndex(({ name }) => name === 'tensor')][0]));
  if (!codec) return;
  within(limits, 'decompressed_nbytes', (spent.decompressed += lengths.reduce((sum, length) => sum + length, 0)));
  buffers.forEach((buffer, k) => {
    if (buffer.length && int64(buffer, 0) !== -1) checkFrame(buffer.subarray(8), lengths[k], codec);
  });
}

/** Buffers one behind the other, each at the first multiple of its alignment: [L-9], [L-10]. */
function checkPlaces(regions, body) {
  let end = 0;
  const padding = (to) => {
    if (to > body.length) refuse('layout', 'buffers inside the body', `byte ${to} of ${body.length}`);
    if (body.subarray(end, to).some((byte) => byte !== 0)) refuse('padding', 'zeros between buffers', 'others');
  };
  regions.forEach(([offset, length], k) => {
    const place = align(end, k < COLUMN_BUFFERS ? 8 : 64);
    if (offset !== place || length < 0) {
      refuse('layout', `byte ${place}`, `${length} bytes at ${offset}`, `buffer ${k}`);
    }
    padding(offset);
    end = offset + length;
  });
  if (align(end, 64) !== body.length) refuse('layout', `a body of ${align(end, 64)} bytes`, body.length);
  padding(body.length);
}

/** The codecs by their number: their frames' first word, and the most bytes that they make of one. */
const CODECS = [
  { magic: 0x184d2204, ratio: 255, measure: measureFrame },
  { magic: 0xfd2fb528, ratio: 2 ** 15, measure: decodeZstd },
];

/** One frame of the batch's codec, of the length before it: [Z-1], [Z-2]. */
function checkFrame(frame, length, codec) {
  const first = frame.length < 4 ? 0 : new DataView(frame.buffer, frame.byteOffset, 4).getUint32(0, true);
  const other = CODECS.find(({ magic }) => magic === first);
  if (other && other !== codec) refuse('compression-codec', 'frames of the codec in the metadata', 'the other one');
  codec.measure(frame, length);
}

/** The length that a compressed buffer claims, which the codec could have made of its bytes: [Z-2], [Z-3]. */
function claimedLength(buffer, { ratio }) {
  if (buffer.length === 0) return 0;
  const claimed = buffer.length < 8 ? -2 : int64(buffer, 0);
  if (claimed === -1) return buffer.length - 8;
  if (claimed < 0 || claimed > ratio * (buffer.length - 8)) {
    refuse('compression', `up to ${ratio} times ${buffer.length - 8} bytes`, claimed);
  }
  return claimed;
}

/** Array lengths by their parents, buffer lengths by their arrays: [L-12], [L-13]; offsets follow in step 5. */
function checkLengths(nodes, lengths) {
  const total = lengths.reduce((sum, length) => sum + length, 0);
  ARRAYS.forEach(({ name, nullable, parent }, k) => {
    const [length, nulls] = nodes[k];
    // Of a list the parent's values are not known yet: no element of it takes less than a byte.
    const known = parent < 0 ? nodes[0][0] : ARRAYS[parent].kind === 'struct' ? nodes[parent][0] : null;
    if (length < 0 || (known === null ? length > total : length !== known)) {
      refuse('array-length', known ?? `up to ${total}`, length, name);
    }
    if (!nullable && nulls !== 0) refuse('array-length', 'no nulls', nulls, name);
    if (nulls < 0 || nulls > length) refuse('nulls', `up to ${length} nulls`, nulls, name);
  });
  const sizes = ARRAYS.flatMap(({ kind }, k) => {
    const [length, nulls] = nodes[k];
    return [nulls ? Math.ceil(length / 8) : 0, ...SIZES[kind](length)];
  });
  sizes.forEach((size, k) => {
    if (size !== null && lengths[k] !== size) refuse('buffer-length', `${size} bytes`, lengths[k], `buffer ${k}`);
  });
}

const int64 = (bytes, at) => Number(new DataView(bytes.buffer, bytes.byteOffset + at, 8).getBigInt64(0, true));

/** The columns of a batch as JavaScript values, checked on the way: offsets, nulls, text, views (step 5). */

import { refuse } from './errors.js';
import { COLUMNS } from './schema.js';

const TEXT = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The rows of an arrow RecordBatch as objects; a chunk of `data` is a Uint8Array that views the body. */
export function readRows(batch) {
  const columns = COLUMNS.map((field, k) => readArray(batch.data.children[k], field));
  return Array.from({ length: batch.numRows }, (_, row) => (
    Object.fromEntries(COLUMNS.map(({ name }, k) => [name, columns[k][row]]))));
}

function readArray(data, field) {
  const isNull = nullsOf(data, field);
  const values = READERS[field.kind](data, field);
  return values.map((value, k) => {
    if (!isNull(k)) return value;
    const empty = typeof value === 'object' || typeof value === 'string' ? value.length === 0 : Number(value) === 0;
    return empty ? null : refuse('null-value', '0 or nothing under a null', value, field.name);
  });
}

const READERS = {
  int32: (data) => Array.from(data.values),
  int64: (data) => Array.from(data.values),
  utf8: (data, { name }) => slices(data, data.values.length, name).map(([from, to]) => {
    try {
      return TEXT.decode(data.values.subarray(from, to));
    } catch {
      return refuse('utf8', 'UTF-8', 'other bytes', name);
    }
  }),
  list(data, { name, children }) {
    const [child] = data.children;
    const values = readArray(child, children[0]);
    return slices(data, child.length, name).map(([from, to]) => values.slice(from, to));
  },
  struct(data, { children }) {
    const columns = children.map((field, k) => [field.name, readArray(data.children[k], field)]);
    return Array.from({ length: data.length }, (_, row) => (
      Object.fromEntries(columns.map(([name, values]) => [name, values[row]]))));
  },
  binary_view: readViews,
};

/** Pairs of offsets that begin at 0, never fall, and end at `length`: [L-14]. */
function slices({ length: count, valueOffsets: offsets }, length, where) {
  if (offsets[0] !== 0 || offsets[count] !== length) {
    refuse('offsets', `offsets from 0 to ${length}`, `${offsets[0]} to ${offsets[count]}`, where);
  }
  return Array.from({ length: count }, (_, k) => {
    if (offsets[k] > offsets[k + 1]) refuse('offsets', 'offsets that never fall', offsets[k + 1], where);
    return [offsets[k], offsets[k + 1]];
  });
}

/** A function that tells whether an element is null, of a bitmap that was checked: [L-16]. */
function nullsOf({ length, nullCount, nullBitmap }, { name }) {
  if (nullCount === 0) return () => false;
  const bit = (k) => (nullBitmap[k >> 3] >> (k & 7)) & 1;
  let zeros = 0;
  for (let k = 0; k < length; k++) zeros += 1 - bit(k);
  for (let k = length; k < nullBitmap.length * 8; k++) {
    if (bit(k)) refuse('nulls', 'zeros behind the last bit', 'a one', name);
  }
  if (zeros !== nullCount) refuse('nulls', `${nullCount} nulls`, zeros, name);
  return (k) => bit(k) === 0;
}

/** Chunks: inline, or the whole of the next data buffer: [V-1] to [V-3]. */
function readViews(data) {
  const { values: bytes, variadicBuffers: buffers } = data;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let next = 0;
  const chunks = Array.from({ length: data.length }, (_, k) => {
    const at = 16 * k;
    const length = view.getInt32(at, true);
    if (length <= 12) {
      if (length < 0) refuse('view', 'lengths of 0 or more', length);
      const behind = bytes.subarray(at + 4 + length, at + 16);
      if (behind.some((byte) => byte !== 0)) refuse('inline', 'zeros behind the bytes', 'others');
      return bytes.subarray(at + 4, at + 4 + length);
    }
    const [index, offset] = [view.getInt32(at + 8, true), view.getInt32(at + 12, true)];
    if (index !== next || offset !== 0) refuse('view', `byte 0 of data buffer ${next}`, `byte ${offset} of ${index}`);
    if (next >= buffers.length) refuse('array-count', `data buffer ${next}`, `${buffers.length} in all`);
    const buffer = buffers[next++];
    if (buffer.length !== length) refuse('view', `all ${buffer.length} bytes`, length);
    const prefix = bytes.subarray(at + 4, at + 8);
    if (prefix.some((byte, b) => byte !== buffer[b])) refuse('view-prefix', 'the first 4 bytes', 'others');
    return buffer;
  });
  if (next !== buffers.length) refuse('array-count', `${next} data buffers`, buffers.length);
  return chunks;
}

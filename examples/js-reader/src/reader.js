/** Read a message of version 1: the order of SPEC.md, section 10. */

import { RecordBatchReader } from 'apache-arrow';
import { readItem, readRequest } from './attributes.js';
import { readRows } from './columns.js';
import { FormatError, refuse } from './errors.js';
import { checkLayout } from './layout.js';
import { registerLz4 } from './lz4.js';
import { joinRows } from './rows.js';
import { LIMITS } from './schema.js';
import { readStream } from './stream.js';
import { readTensors } from './tensors.js';
import { registerZstd } from './zstd.js';

registerLz4();
registerZstd();

/**
 * Read the bytes of a message.
 *
 * Returns `{ items, request_data }`. An item has `modality`, `format`, `hash` (bigint), `pad_value` (bigint),
 * `identity`, `offsets` (pairs of bigint), `tensors` (a Map by name) and the values of attributes.js. Tensors of one
 * chunk are views of `bytes`; all others are copies. Throws a FormatError with the `code` of the broken clause.
 */
export function readMessage(bytes, overrides = {}) {
  const limits = { ...LIMITS, ...overrides };
  const batches = readStream(bytes, limits);
  const spent = { decompressed: 0, tensors: 0 };
  for (const batch of batches) checkLayout(batch, limits, spent);
  const { items, request } = joinRows(batches.length ? loadRows(bytes) : [], limits);
  return {
    items: items.map((row) => {
      const tensors = readTensors(row.tensors, limits);
      const { modality, format, pad_value, identity } = row;
      return {
        modality, format, hash: row.hash === null ? null : BigInt(row.hash), pad_value, identity,
        offsets: row.offsets?.map(({ start, end }) => [start, end]) ?? null,
        tensors, ...readItem(row.attributes, tensors, limits),
      };
    }),
    request_data: request
      ? readRequest(request.attributes, readTensors(request.tensors, limits), limits)
      : { type: 'dict', pairs: [] },
  };
}

/** Give the checked stream to apache-arrow; what it cannot open breaks [L-18]. */
function loadRows(bytes) {
  try {
    return [...RecordBatchReader.from(bytes)].map(readRows);
  } catch (error) {
    if (error instanceof FormatError) throw error;
    return refuse('arrow', 'a stream that Arrow opens', error.message);
  }
}

/** Tensors: dtype, shape and bytes, dictionaries expanded (SPEC.md, sections 5 and 6; step 7). */

import { refuse } from './errors.js';
import { parseJson } from './json.js';
import { DTYPES, within } from './schema.js';

const product = (extents) => extents.reduce((value, extent) => value * extent, 1n);
const floored = (extents) => product(extents.map((extent) => extent || 1n));  // extents of 0 count as 1

/**
 * The tensors of a row by name: `{ name, dtype, shape, encoding, nbytes, bytes }`, bytes in C order ([T-7]).
 *
 * `bytes` of a dictionary tensor is expanded when it is asked for, each time: a small message may hold thousands of
 * tensors that grow to `tensor_nbytes`, and no limit is for their sum.
 */
export function readTensors(rows, limits) {
  const tensors = new Map();
  for (const row of rows) {
    const where = `$.tensors[${JSON.stringify(row.name)}]`;
    if (tensors.has(row.name)) refuse('tensor-names', 'a name once', row.name, where);
    tensors.set(row.name, readTensor(row, limits, where));
  }
  return tensors;
}

function readTensor({ name, dtype, shape, encoding, parameters, data }, limits, where) {
  if (!Object.hasOwn(DTYPES, dtype)) refuse('dtype', 'a dtype', dtype, where);
  const size = BigInt(DTYPES[dtype]);
  within(limits, 'dimensions', shape.length, where);
  within(limits, 'chunks', data.length, where);
  if (shape.some((extent) => extent < 0n)) refuse('shape', 'extents of 0 or more', shape, where);
  within(limits, 'tensor_nbytes', floored(shape) * size, where);
  const tensor = { name, dtype, shape: shape.map(Number), encoding, nbytes: Number(product(shape) * size) };
  if (encoding === 'dictionary') {
    const dictionary = readDictionary(readParameters(parameters, size, limits, where), data, shape, size, where);
    return Object.defineProperty(tensor, 'bytes', { get: () => expand(dictionary, tensor.nbytes) });
  }
  if (encoding !== 'plain') refuse('encoding', 'plain or dictionary', encoding, where);
  if (parameters !== null) refuse('plain-parameters', 'null', parameters, where);
  tensor.bytes = joined(data, tensor.nbytes, where);
  if (dtype === 'bool' && tensor.bytes.some((byte) => byte > 1)) refuse('bool', 'bytes 0 and 1', 'others', where);
  return tensor;
}

/** Chunks as one array; a single one is not copied ([V-4]). */
function joined(chunks, nbytes, where) {
  const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  if (length !== nbytes) refuse('shape-bytes', `${nbytes} bytes`, length, where);
  if (chunks.length === 1) return chunks[0];
  const bytes = new Uint8Array(length);
  chunks.reduce((at, chunk) => (bytes.set(chunk, at), at + chunk.length), 0);
  return bytes;
}

/** The parameters of a dictionary, as bigints: [D-1]. */
function readParameters(text, size, limits, where) {
  const maxDepth = limits.attributes_depth;
  const options = { code: 'parameters', numberCode: 'parameters', maxDepth, accepts: () => true };
  const object = parseJson(text ?? '', options);
  const keys = ['axis', 'codes', 'entries', 'repeat', 'repeat_axis', 'table_channels'];
  const isObject = object instanceof Map && [...object.keys()].sort().join() === keys.join();
  if (!isObject) refuse('parameters', keys, text?.slice(0, 100), where);
  const values = Object.fromEntries(object);
  const { axis, codes, entries, repeat, repeat_axis, table_channels } = values;
  const integers = [axis, entries, repeat, repeat_axis, table_channels, ...(Array.isArray(codes) ? codes : [null])];
  const sound = integers.every((value) => typeof value === 'bigint' && value >= 0n)
    && axis < codes.length && entries >= 1n && entries <= 256n && repeat >= 1n && repeat_axis <= codes.length
    && (table_channels === 1n || table_channels === codes[axis]);
  if (!sound) refuse('parameters', 'parameters in their ranges', text.slice(0, 100), where);
  within(limits, 'dimensions', codes.length, where);
  within(limits, 'tensor_nbytes', floored(codes) * repeat * size, where);
  return values;
}

/** Table and codes, each code known to be in the table: [D-2], [D-3], [D-5]. */
function readDictionary(parameters, data, shape, size, where) {
  const { codes: extents, entries, repeat, table_channels: channels } = parameters;
  const count = product(extents);
  if (count * repeat !== product(shape)) refuse('dictionary-shape', product(shape), count * repeat, where);
  const [table, ...chunks] = data;
  if (BigInt(table?.length ?? -1) !== channels * entries * size) {
    refuse('dictionary-table', `${channels * entries * size} bytes`, table?.length, where);
  }
  const codes = joined(chunks, Number(count), where);
  const wrong = codes.find((code) => code >= entries);
  if (wrong !== undefined) refuse('dictionary-code', `codes below ${entries}`, wrong, where);
  return { ...parameters, table, codes, extents: extents.map(Number), width: Number(size) };
}

/** The elements in C order: [D-4]. Code k is of channel (k / inner) % extents[axis]; runs of `block` codes repeat. */
function expand(dictionary, nbytes) {
  const { table, codes, extents, width, axis, entries, repeat, repeat_axis: repeatAxis } = dictionary;
  const channels = dictionary.table_channels;
  const bytes = new Uint8Array(nbytes);
  const behind = (first) => extents.slice(Number(first)).reduce((value, extent) => value * extent, 1);
  const inner = behind(axis + 1n);
  const block = repeat > 1n ? behind(repeatAxis) : codes.length;
  for (let at = 0, start = 0; start < codes.length; start += block) {
    for (let copy = 0; copy < Number(repeat); copy++) {
      for (let k = start; k < start + block; k++) {
        const channel = channels === 1n ? 0 : Math.floor(k / inner) % extents[Number(axis)];
        const entry = (channel * Number(entries) + codes[k]) * width;
        for (let b = 0; b < width; b++) bytes[at++] = table[entry + b];
      }
    }
  }
  return bytes;
}

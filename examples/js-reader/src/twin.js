/** A message in the form of the vectors' JSON twins (schemas/v1/vectors/README.md), for people and for comparison. */

import { createHash } from 'node:crypto';

const hex = (bytes) => Buffer.from(bytes).toString('hex');

/** The twin as an object; ranges stay pairs of bigint. */
export function toTwin({ items, request_data }) {
  return {
    items: items.map((item) => ({
      modality: item.modality,
      format: item.format,
      hash: item.hash?.toString() ?? null,
      pad_value: item.pad_value?.toString() ?? null,
      identity: item.identity,
      offsets: item.offsets,
      feature: value(item.feature),
      precomputed_embeddings: value(item.precomputed_embeddings),
      model_specific_data: value(item.model_specific_data),
    })),
    request_data: value(request_data),
  };
}

/** JSON in ASCII without white space, as the twins are written; a bigint is a number. */
export function stringify(json) {
  if (typeof json === 'bigint') return json.toString();
  if (Array.isArray(json)) return `[${json.map(stringify).join()}]`;
  if (json !== null && typeof json === 'object') {
    return `{${Object.entries(json).map(([key, part]) => `${stringify(key)}:${stringify(part)}`).join()}}`;
  }
  return JSON.stringify(json).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function value(node) {
  switch (node.type) {
    case 'int': return { type: 'int', value: node.value.toString() };
    case 'float': return { type: 'float', value: hexFloat(node.value) };
    case 'complex': return { type: 'complex', value: node.value.map(hexFloat) };
    case 'bytes':
    case 'bytearray': return { type: node.type, value: hex(node.value) };
    case 'list':
    case 'tuple': return { type: node.type, values: node.values.map(value) };
    case 'dict': return { type: 'dict', pairs: node.pairs.map((pair) => pair.map(value)) };
    case 'scalar': return { type: 'scalar', dtype: node.dtype, value: hex(node.value) };
    case 'tensor': {
      const { dtype, shape, bytes } = node.tensor;
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      return { type: 'tensor', library: node.library, dtype, shape, sha256 };
    }
    default: return node;
  }
}

/** C's hexadecimal notation, as `0x1.8000000000000p+1`. */
function hexFloat(number) {
  if (!Number.isFinite(number)) return { NaN: 'nan', Infinity: 'inf', '-Infinity': '-inf' }[number];
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, number);
  const bits = view.getBigUint64(0);
  const sign = bits >> 63n ? '-' : '';
  const exponent = Number((bits >> 52n) & 2047n);
  const fraction = bits & (2n ** 52n - 1n);
  if (exponent === 0 && fraction === 0n) return `${sign}0x0.0p+0`;
  const power = exponent === 0 ? -1022 : exponent - 1023;
  return `${sign}0x${exponent ? 1 : 0}.${fraction.toString(16).padStart(13, '0')}p${power < 0 ? '' : '+'}${power}`;
}

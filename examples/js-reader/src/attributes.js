/**
 * Attributes: JSON to values, tags resolved, each tensor asked for once (SPEC.md, section 8; step 8).
 *
 * A value is `{ type, ... }`, since JavaScript has no tuples and one kind of number: `none`, `bool`, `str`, `int`
 * (bigint), `float`, `complex`, `bytes`, `bytearray`, `list`, `tuple`, `dict` (pairs), `scalar` and `tensor`.
 */

import { refuse } from './errors.js';
import { inReach, parseJson } from './json.js';
import { DTYPES } from './schema.js';

const NONE = { type: 'none' };
/** Types of values that are neither a tensor nor hold one. */
const BARE = new Set(['bool', 'str', 'int', 'float', 'complex', 'bytes', 'bytearray', 'scalar']);
const FLOATS = { nan: NaN, inf: Infinity, '-inf': -Infinity };
const bad = (expected, got) => (
  refuse('attributes-value', expected, typeof got === 'string' ? got.slice(0, 40) : typeof got));

/** The fields of an item; those left out are none, or an empty dict. */
export function readItem(text, tensors, limits) {
  const fields = readFields(text, ['feature', 'precomputed_embeddings', 'model_specific_data'], tensors, limits);
  return {
    feature: fields.get('feature') ?? NONE,
    precomputed_embeddings: fields.get('precomputed_embeddings') ?? NONE,
    model_specific_data: fields.get('model_specific_data') ?? { type: 'dict', pairs: [] },
  };
}

/** The request's mapping. */
export const readRequest = (text, tensors, limits) => (
  readFields(text, ['request_data'], tensors, limits).get('request_data') ?? { type: 'dict', pairs: [] });

function readFields(text, names, tensors, limits) {
  const json = parseJson(text, {
    code: 'attributes', numberCode: 'attributes-value', maxDepth: limits.attributes_depth,
  });
  if (!(json instanceof Map)) refuse('attributes', 'an object', text.slice(0, 40));
  const left = new Map(tensors);
  const fields = new Map();
  for (const [name, value] of json) {
    if (!names.includes(name)) refuse('attributes-field', names, name);
    fields.set(name, read(value, left));
    const mapping = name === 'model_specific_data' || name === 'request_data';
    const { type } = fields.get(name);
    if (mapping && type !== 'dict') refuse('attributes-field', 'a mapping', type, name);
    if (!mapping && BARE.has(type)) refuse('attributes-field', 'tensors', type, name);
  }
  if (left.size) refuse('tensor-names', 'every tensor asked for', [...left.keys()][0]);
  return fields;
}

function read(json, left) {
  if (json === null) return NONE;
  if (typeof json === 'boolean') return { type: 'bool', value: json };
  if (typeof json === 'string') return { type: 'str', value: json };
  if (typeof json === 'bigint') return { type: 'int', value: json };
  if (typeof json === 'number') return { type: 'float', value: json };
  if (Array.isArray(json)) return { type: 'list', values: json.map((value) => read(value, left)) };
  const [first] = json.keys();
  if (json.size === 1 && first.startsWith('$')) {
    const tag = Object.hasOwn(TAGS, first) ? TAGS[first] : bad('a known tag', first);
    return tag(json.get(first), left, first.slice(1));
  }
  const pairs = [...json].map(([key, value]) => {
    if (key.startsWith('$')) bad('a tag alone in its object', key);
    return [{ type: 'str', value: key }, read(value, left)];
  });
  return { type: 'dict', pairs };
}

const TAGS = {
  $int(text) {
    if (typeof text !== 'string' || !/^-?[0-9]{1,1234}$/.test(text)) bad('an integer of up to 1234 digits', text);
    const value = BigInt(text);
    if (inReach(value) || value.toString() !== text) refuse('json', 'the shortest spelling', text.slice(0, 40));
    return { type: 'int', value };
  },
  $float(text) {
    return { type: 'float', value: Object.hasOwn(FLOATS, text) ? FLOATS[text] : bad('nan, inf, -inf', text) };
  },
  $complex(parts) {
    const values = Array.isArray(parts) ? parts.map((part) => read(part, new Map())) : [];
    if (values.length !== 2 || values.some(({ type }) => type !== 'float')) bad('two floats', parts);
    return { type: 'complex', value: values.map(({ value }) => value) };
  },
  $bytes: (text) => ({ type: 'bytes', value: base64(text) }),
  $bytearray: (text) => ({ type: 'bytearray', value: base64(text) }),
  $tuple: (items, left) => ({ type: 'tuple', values: list(items).map((value) => read(value, left)) }),
  $dict(items, left) {
    const pairs = list(items).map((pair) => (
      list(pair).length === 2 ? pair.map((value) => read(value, left)) : bad('pairs', pair)));
    if (new Set(pairs.map(([key]) => sameKey(key))).size !== pairs.length) bad('keys that differ', items);
    return { type: 'dict', pairs };
  },
  $scalar(parts) {
    const [dtype, text] = list(parts);
    if (parts.length !== 2 || !Object.hasOwn(DTYPES, dtype)) bad('a dtype and bytes', dtype);
    const value = base64(text);
    if (value.length !== DTYPES[dtype] || (dtype === 'bool' && value[0] > 1)) bad(`an element of ${dtype}`, text);
    return { type: 'scalar', dtype, value };
  },
  $tensor: (name, left) => ({ type: 'tensor', library: 'torch', tensor: take(name, left) }),
  $ndarray: (name, left) => ({ type: 'tensor', library: 'numpy', tensor: take(name, left) }),
};

const list = (json) => (Array.isArray(json) ? json : bad('an array', json));

/** A tensor by name, which nobody may ask for again: [T-1]. */
function take(name, left) {
  const tensor = typeof name === 'string' ? left.get(name) : bad('a name', name);
  if (!tensor) refuse('tensor-names', 'a tensor of this item, once', name.slice(0, 40));
  left.delete(name);
  return tensor;
}

function base64(text) {
  if (typeof text !== 'string' || !/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) {
    bad('base64', text);
  }
  const bytes = Buffer.from(text, 'base64');
  if (bytes.toString('base64') !== text) refuse('json', 'zero bits behind the last byte', text.slice(-8));
  return new Uint8Array(bytes);
}

/**
 * What two equal keys of a mapping have in common: 1, 1.0 and true are one key, and a NaN differs from every other.
 *
 * Refuses values that are no keys: arrays, mappings, tensors and mutable bytes.
 */
function sameKey({ type, value, values, dtype }) {
  switch (type) {
    case 'none': return 'none';
    case 'str': return `str ${JSON.stringify(value)}`;
    case 'bool': return `number ${Number(value)}`;
    case 'int': return `number ${value}`;
    case 'float':
      if (Number.isNaN(value)) return Symbol('nan');
      return `number ${Number.isInteger(value) ? BigInt(value) : value}`;
    case 'complex': return value[1] === 0 ? sameKey({ type: 'float', value: value[0] }) : `complex ${value}`;
    case 'bytes': return `bytes ${value}`;
    case 'scalar': return `scalar ${dtype} ${value}`;
    case 'tuple': return `tuple [${values.map((part) => String(sameKey(part)))}]`;
    default: return bad('a key', type);
  }
}

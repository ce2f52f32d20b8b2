/** What is fixed in version 1: columns, dtypes, words and default limits (SPEC.md, sections 3, 5 and 9). */

import { refuse } from './errors.js';

const field = (name, kind, nullable = false, children = []) => ({ name, kind, nullable, children });

export const COLUMNS = [
  field('item', 'int32'),
  field('modality', 'utf8'),
  field('format', 'utf8', true),
  field('hash', 'utf8', true),
  field('pad_value', 'int64', true),
  field('identity', 'utf8', true),
  field('offsets', 'list', true, [field('range', 'struct', false, [field('start', 'int64'), field('end', 'int64')])]),
  field('attributes', 'utf8', true),
  field('tensors', 'list', false, [field('tensor', 'struct', false, [
    field('name', 'utf8'),
    field('dtype', 'utf8'),
    field('shape', 'list', false, [field('extent', 'int64')]),
    field('encoding', 'utf8'),
    field('parameters', 'utf8', true),
    field('data', 'list', false, [field('chunk', 'binary_view')]),
  ])]),
];

export const MODALITIES = ['IMAGE', 'MULTI_IMAGES', 'VIDEO', 'AUDIO'];
export const FORMATS = ['normal', 'processor_output', 'precomputed_embedding'];
export const DTYPES = {
  bool: 1, int8: 1, int16: 2, int32: 4, int64: 8, uint8: 1, uint16: 2, uint32: 4, uint64: 8,
  float16: 2, float32: 4, float64: 8, bfloat16: 2,
  float8_e4m3fn: 1, float8_e5m2: 1, float8_e4m3fnuz: 1, float8_e5m2fnuz: 1, complex64: 8, complex128: 16,
};
export const LIMITS = {
  message_nbytes: 2 ** 34, decompressed_nbytes: 2 ** 34, tensor_nbytes: 2 ** 34, metadata_nbytes: 2 ** 26,
  items: 4096, tensors: 65536, batches: 64, dimensions: 32, chunks: 65536,
  attributes_nbytes: 2 ** 24, attributes_depth: 64,
};

/** Refuse `value` over the limit of that name ([B-1]). */
export function within(limits, name, value, where) {
  if (value > limits[name]) refuse('limit', `${name} up to ${limits[name]}`, value, where);
}

// Numbers of Arrow's Schema.fbs: the union `Type`.
const TYPE_IDS = { int32: 2, int64: 2, utf8: 5, list: 12, struct: 13, binary_view: 23 };

/** Check the flatbuffer of a schema: [S-2], [S-3], then [S-4] and [S-1]. Unknown keys are ignored: [S-5]. */
export function checkSchema(schema) {
  const versions = schema.tables(2).filter((pair) => pair.text(0) === 'mmformat.version').map((pair) => pair.text(1));
  if (versions.length !== 1 || !/^[1-9][0-9]*$/.test(versions[0])) {
    refuse('no-version', 'one key mmformat.version, an integer from 1', JSON.stringify(versions));
  }
  if (versions[0] !== '1') refuse('version', 'version 1', versions[0].slice(0, 40));
  if (schema.int16(0) !== 0) refuse('schema', 'little-endian', 'big');
  checkFields(schema.tables(1), COLUMNS, '$');
}

function checkFields(tables, fields, where) {
  if (tables.length !== fields.length) refuse('schema', `${fields.length} fields`, tables.length, where);
  fields.forEach(({ name, kind, nullable, children }, k) => {
    const table = tables[k];
    const at = `${where}.${name}`;
    if (table.text(0) !== name) refuse('schema', name, JSON.stringify(table.text(0)), at);
    if (table.bool(1) !== nullable) refuse('schema', `nullable ${nullable}`, !nullable, at);
    const type = table.table(3);
    let matches = table.uint8(2) === TYPE_IDS[kind] && type !== null && !table.has(4);  // 4: dictionary-encoded
    if (kind.startsWith('int')) matches &&= type.int32(0) === Number(kind.slice(3)) && type.bool(1);
    if (!matches) refuse('schema', kind, `type ${table.uint8(2)}`, at);
    if (table.tables(6).some((pair) => pair.text(0) === 'ARROW:extension:name')) {
      refuse('schema', 'no extension type', 'one', at);
    }
    checkFields(table.tables(5), children, at);
  });
}

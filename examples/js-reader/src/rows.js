/** Items put together from the rows of all batches (SPEC.md, section 4; step 6). */

import { refuse } from './errors.js';
import { FORMATS, MODALITIES, within } from './schema.js';

const REQUEST = -1;

/** Take the rows of each batch; returns `{ items, request }`, whose rows hold all tensors. */
export function joinRows(batches, limits) {
  const rows = new Map();
  batches.forEach((batch, number) => {
    let last = -1;
    batch.forEach((row, k) => {
      const where = `$.batches[${number}][${k}]`;
      const request = row.modality === 'REQUEST';
      if (!request && !MODALITIES.includes(row.modality)) refuse('modality', MODALITIES, row.modality, where);
      if (request !== (row.item === REQUEST)) refuse('row-order', 'item -1 for the request alone', row.item, where);
      if (request ? k !== batch.length - 1 : row.item <= last) {
        refuse('row-order', 'rising items, the request last', row.item, where);
      }
      if (number === 0 && !request && row.item !== k) refuse('row-order', `item ${k}`, row.item, where);
      last = row.item;
      if (number === 0) rows.set(row.item, first(row, where, limits));
      else continued(rows.get(row.item), row, where);
    });
    within(limits, 'items', rows.size - Number(rows.has(REQUEST)));
  });
  const request = rows.get(REQUEST) ?? null;
  rows.delete(REQUEST);
  return { items: [...rows.values()], request };
}

function first(row, where, limits) {
  if (row.attributes === null) refuse('attributes', 'attributes', null, where);
  within(limits, 'attributes_nbytes', Buffer.byteLength(row.attributes), where);
  if (row.item === REQUEST) {
    for (const name of ['format', 'hash', 'pad_value', 'identity', 'offsets']) {
      if (row[name] !== null) refuse('request-row', 'null', row[name], `${where}.${name}`);
    }
    return row;
  }
  // is read so that a format of null is refused too: an item's first row has one of the values.
  if (!FORMATS.includes(row.format)) refuse('modality', FORMATS, row.format, where);
  if (row.hash !== null) {
    if (!/^-?[0-9]+$/.test(row.hash) || row.hash.replace('-', '').length > 1234) {
      refuse('hash', 'a decimal integer of up to 1234 digits', row.hash.slice(0, 40), where);
    }
    if (!/^(0|-?[1-9][0-9]*)$/.test(row.hash)) refuse('json', 'the shortest spelling', row.hash.slice(0, 40), where);
  }
  return row;
}

/** Add the tensors of a later batch's row to those of the first. */
function continued(row, more, where) {
  if (!row || row.modality !== more.modality) refuse('continuation', 'an item of the first batch', more.item, where);
  for (const name of ['format', 'hash', 'pad_value', 'identity', 'offsets', 'attributes']) {
    if (more[name] !== null) refuse('continuation', 'null', more[name], `${where}.${name}`);
  }
  row.tensors.push(...more.tensors);
}

/** Each golden vector, and schema.json against this reader's own constants. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as schema from '../src/schema.js';
import { SCHEMA, VECTORS, lacks, outcomeOf, twinOf } from './vectors.js';

for (const vector of VECTORS) {
  test(`${vector.kind}/${vector.name}: ${vector.about}`, () => {
    const { outcome, code, text } = outcomeOf(vector);
    if (vector.kind !== 'valid' || lacks(vector)) assert.equal(code, vector.code ?? vector.optional, text);
    else assert.equal(text, twinOf(vector), outcome);
  });
}

test('the vectors are all there', () => {
  const count = (kind) => VECTORS.filter((vector) => vector.kind === kind).length;
  assert.ok(count('valid') >= 26 && count('invalid') >= 86 && count('future') >= 4);
});

test('the constants are those of schema.json', () => {
  const plain = (field) => ({
    name: field.name, kind: field.type ?? field.kind, nullable: field.nullable,
    children: (field.fields ?? (field.element ? [field.element] : field.children ?? [])).map(plain),
  });
  assert.deepEqual(schema.COLUMNS, SCHEMA.columns.map(plain));
  assert.deepEqual(schema.DTYPES, SCHEMA.dtypes);
  assert.deepEqual(schema.LIMITS, SCHEMA.limits);
  assert.deepEqual([schema.MODALITIES, schema.FORMATS], [SCHEMA.modalities, SCHEMA.formats]);
});

test('every code that a clause names stands in the source, or is left to the writer', async () => {
  const { readFileSync, readdirSync } = await import('node:fs');
  const folder = new URL('../src/', import.meta.url);
  const source = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), 'utf8')).join('');
  const codes = new Set(Object.values(SCHEMA.clauses).flatMap((clause) => clause.codes));
  assert.deepEqual([...codes].filter((code) => !source.includes(`'${code}'`)), []);
});

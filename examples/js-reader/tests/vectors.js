/** The golden vectors: what this reader makes of each, beside what the manifest says. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { FormatError } from '../src/errors.js';
import { readMessage } from '../src/reader.js';
import { stringify, toTwin } from '../src/twin.js';
import { HAS_ZSTD } from '../src/zstd.js';

const FOLDER = new URL('../../../schemas/v1/vectors/', import.meta.url);
export const SCHEMA = JSON.parse(readFileSync(new URL('../schema.json', FOLDER)));
export const VECTORS = JSON.parse(readFileSync(new URL('manifest.json', FOLDER))).vectors;
export const bytesOf = ({ kind, name }) => new Uint8Array(readFileSync(new URL(`${kind}/${name}.arrows`, FOLDER)));
export const twinOf = ({ name }) => readFileSync(new URL(`valid/${name}.json`, FOLDER), 'utf8').trimEnd();

/** Whether a valid vector wants what this node has not, and its `optional` code is the right answer. */
export const lacks = ({ optional }) => optional === 'compression-codec' && !HAS_ZSTD;

/** `{ outcome, code, text }` of reading one vector; errors that are no refusals come out as they are. */
export function outcomeOf(vector) {
  const bytes = bytesOf(vector);
  if (createHash('sha256').update(bytes).digest('hex') !== vector.sha256) throw new Error(`${vector.name} has changed`);
  try {
    return { outcome: 'read', code: '', text: stringify(toTwin(readMessage(bytes, vector.limits))) };
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return { outcome: 'refused', code: error.code, text: error.message };
  }
}

/** A row for each vector. */
export function outcomes() {
  return VECTORS.map((vector) => {
    const { outcome, code, text } = outcomeOf(vector);
    const isRead = vector.kind === 'valid' && !lacks(vector);
    const right = isRead ? text === twinOf(vector) : code === (vector.code ?? vector.optional);
    return { kind: vector.kind, name: vector.name, outcome, code, text, right };
  });
}

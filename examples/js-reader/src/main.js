/** Print what a message holds: `node src/main.js [--json] FILE.arrows`. */

import { readFileSync } from 'node:fs';
import { FormatError } from './errors.js';
import { readMessage } from './reader.js';
import { stringify, toTwin } from './twin.js';

const args = process.argv.slice(2);
const files = args.filter((arg) => arg !== '--json');
if (files.length !== 1 || files[0].startsWith('-')) {
  console.error('usage: node src/main.js [--json] FILE.arrows');
  process.exit(2);
}

try {
  const message = readMessage(readFileSync(files[0]));
  console.log(args.includes('--json') ? stringify(toTwin(message)) : table(message));
} catch (error) {
  if (!(error instanceof FormatError) && !error.syscall) throw error;
  console.error(`error: ${files[0]}: ${error.message}${error instanceof FormatError ? ` (code ${error.code})` : ''}`);
  process.exitCode = error instanceof FormatError ? 1 : 3;
}

function table({ items, request_data }) {
  const lines = items.flatMap((item, k) => [
    [`item ${k}`, item.modality, item.format, item.hash === null ? '' : `hash ${item.hash}`, ''],
    ...tensorsOf([item.feature, item.precomputed_embeddings, item.model_specific_data]),
  ]);
  if (request_data.pairs.length) lines.push(['request', '', '', '', ''], ...tensorsOf([request_data]));
  if (!lines.length) return 'no items';
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) => line.map((cell, k) => cell.padEnd(widths[k])).join('  ').trimEnd()).join('\n');
}

/** A line for each tensor among values, at whatever depth. */
function tensorsOf(nodes) {
  return nodes.flatMap(({ type, tensor, values, pairs }) => {
    if (type !== 'tensor') return tensorsOf(values ?? pairs?.map(([, value]) => value) ?? []);
    // Names are the sender's: quoted and escaped, so that none can command a terminal ([X-2]).
    const name = stringify(tensor.name).replace(/^(.{57}).{4,}$/, '$1..."');
    return [[`  ${name}`, tensor.dtype, `[${tensor.shape}]`, tensor.encoding, `${tensor.nbytes} bytes`]];
  });
}

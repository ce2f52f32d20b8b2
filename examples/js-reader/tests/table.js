/** Read every vector and print what came of it: `npm test`, behind the tests. */

import { outcomes } from './vectors.js';

const rows = outcomes();
const width = Math.max(...rows.map(({ name }) => name.length));
for (const { kind, name, outcome, code, right } of rows) {
  console.log(`${right ? 'ok   ' : 'WRONG'}  ${kind.padEnd(7)}  ${name.padEnd(width)}  ${outcome.padEnd(7)}  ${code}`);
}
for (const kind of ['valid', 'invalid', 'future']) {
  const group = rows.filter((row) => row.kind === kind);
  console.log(`${kind}: ${group.filter(({ right }) => right).length} of ${group.length} as the manifest says`);
}
process.exitCode = rows.every(({ right }) => right) ? 0 : 1;

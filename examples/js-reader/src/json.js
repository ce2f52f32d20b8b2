/**
 * JSON as section 8 has it, which JSON.parse is too generous for: no key twice ([A-1]), integers apart from floats,
 * no integer beyond 2^53 ([A-4]), no white space ([A-6]).
 *
 * Integers become bigint, other numbers number, arrays Array, objects Map.
 */

import { refuse } from './errors.js';

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
export const inReach = (integer) => -(2n ** 53n) <= integer && integer <= 2n ** 53n;
const WORDS = [['null', null], ['true', true], ['false', false]];

/**
 * Parse `text`. `code` is that of a text that is no JSON, `numberCode` that of a number which `accepts` refuses or
 * which overflows a double.
 */
export function parseJson(text, { code, numberCode, maxDepth, accepts = inReach }) {
  let at = 0;
  const fail = (what) => refuse(code, what, JSON.stringify(text.slice(at, at + 20)), `character ${at}`);
  const take = (token) => text.startsWith(token, at) && ((at += token.length), true);

  function value(depth) {
    if (/[ \t\n\r]/.test(text[at])) refuse('json', 'no white space', 'some', `character ${at}`);
    for (const [word, meaning] of WORDS) if (take(word)) return meaning;
    if (text[at] === '"') return string();
    if (text[at] === '[' || text[at] === '{') {
      if (depth > maxDepth) refuse('limit', `attributes_depth up to ${maxDepth}`, depth);
      return take('[') ? array(depth) : take('{') && object(depth);
    }
    return number();
  }

  function string() {
    // Found by a loop: a pattern that repeats a choice overflows the stack at some megabytes.
    let end = at + 1;
    while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1;
    try {
      const found = text[at] === '"' ? JSON.parse(text.slice(at, end + 1)) : fail('a string');
      at = end + 1;
      return found;
    } catch {
      return fail('a string');
    }
  }

  function number() {
    NUMBER.lastIndex = at;
    const found = NUMBER.exec(text);
    if (!found) return fail('a value');
    at = NUMBER.lastIndex;
    const [digits, fraction, exponent] = found;
    const float = Number(digits);
    const whole = fraction === undefined && exponent === undefined;
    // Compared as an integer, since 2^53 + 1 becomes 2^53 as a double; 1234 digits are the most that any integer has.
    const reachable = whole ? digits.length <= 1235 && accepts(BigInt(digits)) : Number.isFinite(float);
    if (!reachable) refuse(numberCode, 'a number within reach', digits.slice(0, 40), `character ${at}`);
    return whole ? BigInt(digits) : float;
  }

  function array(depth) {
    const items = [];
    if (take(']')) return items;
    for (;;) {
      items.push(value(depth + 1));
      if (take(']')) return items;
      separator(',');
    }
  }

  function object(depth) {
    const pairs = new Map();
    if (take('}')) return pairs;
    for (;;) {
      if (/[ \t\n\r]/.test(text[at])) separator('"');
      const key = string();
      if (pairs.has(key)) fail(`the key ${JSON.stringify(key)} once`);
      separator(':');
      pairs.set(key, value(depth + 1));
      if (take('}')) return pairs;
      separator(',');
    }
  }

  function separator(token) {
    if (take(token)) return;
    if (/[ \t\n\r]/.test(text[at])) refuse('json', 'no white space', 'some', `character ${at}`);
    fail(token);
  }

  const result = value(0);
  if (at < text.length && text.slice(at).trim() === '') refuse('json', 'no white space', 'some', `character ${at}`);
  if (at < text.length) fail('the end');
  return result;
}

/** The one error of this reader: a refusal with a code of SPEC.md ([E-1]). */

export class FormatError extends Error {
  constructor(code, message) {
    super(message);
    this.name = code === 'version' ? 'VersionError' : 'FormatError';
    this.code = code;
  }
}

/** Refuse the message: `expected` and `got` may be anything that prints, text of the sender too ([X-2]). */
export function refuse(code, expected, got, where = '') {
  const tail = got === undefined ? '' : `, got ${got}`;
  const text = `expected ${expected}${tail}${where && ` - at ${where}`}`;
  const escape = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  throw new FormatError(code, text.slice(0, 300).replace(/[^ -~]/g, escape));
}

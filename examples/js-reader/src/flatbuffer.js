/**
 * Flatbuffer tables, each offset checked before it is followed: [L-7].
 *
 * The generated classes of the flatbuffers package follow what they find, so metadata is read here first and shown to
 * apache-arrow only when it is known to be sound.
 */

import { refuse } from './errors.js';

const TEXT = new TextDecoder('utf-8', { ignoreBOM: true });

export class Table {
  #view;
  #at;
  #slots = [];
  #size;

  /** The table at byte `at` of `view`, a DataView of one flatbuffer. */
  constructor(view, at) {
    this.#view = view;
    this.#at = at;
    this.#inside(at, 4);
    const vtable = at - view.getInt32(at, true);
    this.#inside(vtable, 4);
    const vtableSize = view.getUint16(vtable, true);
    this.#size = view.getUint16(vtable + 2, true);
    this.#inside(vtable, vtableSize);
    this.#inside(at, this.#size);
    if (vtableSize % 2) refuse('metadata', 'a vtable of whole slots', `${vtableSize} bytes`);
    for (let k = 4; k < vtableSize; k += 2) this.#slots.push(view.getUint16(vtable + k, true));
  }

  static root(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 4) refuse('metadata', 'a flatbuffer', `${bytes.length} bytes`);
    return new Table(view, view.getUint32(0, true));
  }

  #inside(at, size) {
    if (at < 0 || at + size > this.#view.byteLength) refuse('metadata', 'offsets inside the flatbuffer', at);
  }

  /** Where the field of a slot stands; 0 if the table leaves it out. */
  #field(slot, size) {
    const offset = this.#slots[slot] ?? 0;
    if (offset && (offset < 4 || offset + size > this.#size)) refuse('metadata', 'fields inside their table', offset);
    return offset && this.#at + offset;
  }

  #scalar(slot, size, method, absent) {
    const at = this.#field(slot, size);
    return at ? this.#view[method](at, true) : absent;
  }

  has(slot) { return (this.#slots[slot] ?? 0) !== 0; }
  bool(slot) { return this.#scalar(slot, 1, 'getUint8', 0) !== 0; }
  /** An int64 as a number: beyond 2^53 it is rounded, but no length of a message that is right is there. */
  int64(slot) { return Number(this.#scalar(slot, 8, 'getBigInt64', 0n)); }
  uint8(slot) { return this.#scalar(slot, 1, 'getUint8', 0); }
  int16(slot) { return this.#scalar(slot, 2, 'getInt16', 0); }
  int32(slot) { return this.#scalar(slot, 4, 'getInt32', 0); }

  #follow(at) {
    const target = at + this.#view.getUint32(at, true);
    this.#inside(target, 4);
    return target;
  }

  table(slot) {
    const at = this.#field(slot, 4);
    return at ? new Table(this.#view, this.#follow(at)) : null;
  }

  #vector(slot, size) {
    const at = this.#field(slot, 4);
    if (!at) return { at: 0, length: 0 };
    const start = this.#follow(at);
    const length = this.#view.getUint32(start, true);
    this.#inside(start + 4, length * size);
    return { at: start + 4, length };
  }

  /** Text; bytes that are no UTF-8 are replaced, since keys that nobody knows are to be ignored ([S-5]). */
  text(slot) {
    const { at, length } = this.#vector(slot, 1);
    if (!at) return '';
    this.#inside(at + length, 1);
    if (this.#view.getUint8(at + length) !== 0) refuse('metadata', 'a zero behind text', 'another byte');
    return TEXT.decode(new Uint8Array(this.#view.buffer, this.#view.byteOffset + at, length));
  }

  tables(slot) {
    const { at, length } = this.#vector(slot, 4);
    return Array.from({ length }, (_, k) => new Table(this.#view, this.#follow(at + 4 * k)));
  }

  /** A vector of int64, or of structs of `width` int64, as an array of arrays. */
  int64s(slot, width = 1) {
    const { at, length } = this.#vector(slot, 8 * width);
    const word = (k) => Number(this.#view.getBigInt64(at + 8 * k, true));
    return Array.from({ length }, (_, row) => Array.from({ length: width }, (_, k) => word(row * width + k)));
  }
}

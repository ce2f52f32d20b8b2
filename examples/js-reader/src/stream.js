/** The Arrow messages of a stream: marker, length, metadata, body (SPEC.md, section 2; steps 1 to 3 of section 10). */

import { refuse } from './errors.js';
import { Table } from './flatbuffer.js';
import { checkSchema, within } from './schema.js';

// Numbers of Arrow's Message.fbs: the union `MessageHeader`, and versions of `MetadataVersion`.
const SCHEMA = 1;
const RECORD_BATCH = 3;
const V4 = 3;
const V5 = 4;

/**
 * Check the framing, and the schema before anything behind it is looked at.
 *
 * Returns a list of `{ header, body }`: the flatbuffer table of a record batch, and a view of its bytes.
 */
export function readStream(bytes, limits) {
  within(limits, 'message_nbytes', bytes.length);
  const stream = new Stream(bytes, limits);
  const first = stream.next();
  if (first?.uint8(1) !== SCHEMA || !first.has(2)) {
    refuse('no-schema', 'a schema first', first ? `message type ${first.uint8(1)}` : 'the end');
  }
  const version = first.int16(0);
  if (version !== V4 && version !== V5) refuse('schema', 'metadata version V4 or V5', `number ${version}`);
  checkSchema(first.table(2));
  if (stream.body(first).length) refuse('layout', 'a schema without a body', 'one');
  const batches = [];
  for (let message = stream.next(); message; message = stream.next()) {
    if (message.int16(0) !== V5) refuse('metadata-version', 'V5', `number ${message.int16(0)}`);
    if (message.uint8(1) !== RECORD_BATCH) refuse('message-type', 'a record batch', `type ${message.uint8(1)}`);
    if (message.has(4)) refuse('metadata', 'no custom metadata', 'some');
    if (!message.has(2)) refuse('metadata', 'a record batch', 'none');
    batches.push({ header: message.table(2), body: stream.body(message) });
    within(limits, 'batches', batches.length);
  }
  const left = bytes.length - stream.at;
  if (left) refuse('trailing-bytes', 'nothing behind the end', `${left} bytes`);
  return batches;
}

class Stream {
  at = 0;

  constructor(bytes, limits) {
    this.bytes = bytes;
    this.limits = limits;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #need(size) {
    const inside = size >= 0 && this.at + size <= this.bytes.length;
    if (!inside) refuse('truncated', `${size} bytes`, 'the end', `byte ${this.at}`);
  }

  /** The next Arrow message's metadata; null at the end of the stream. */
  next() {
    this.#need(4);
    const marker = this.view.getUint32(this.at, true);
    if (marker !== 0xffffffff) refuse('marker', 'FF FF FF FF', 'other bytes', `byte ${this.at}`);
    this.#need(8);
    const length = this.view.getInt32(this.at + 4, true);
    this.at += 8;
    if (length === 0) return null;
    within(this.limits, 'metadata_nbytes', length);
    this.#need(length);
    const message = Table.root(this.bytes.subarray(this.at, this.at + length));
    this.at += length;
    return message;
  }

  /** The body behind the metadata that was read last: [L-3], [L-8]. */
  body(message) {
    const length = message.int64(3);
    this.#need(length);
    if (this.at % 64 || length % 64) refuse('alignment', 'bodies on multiples of 64', `${this.at} + ${length}`);
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
}

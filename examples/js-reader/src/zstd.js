/**
 * Zstandard frames, for apache-arrow's registry: [Z-1] to [Z-3]. The codec is node's own, from 22.15; an older node has
 * none, and the reader then answers with the code that [Z-1] leaves to readers without it.
 */

import * as zlib from 'node:zlib';
import { CompressionType, compressionRegistry } from 'apache-arrow';
import { refuse } from './errors.js';

export const HAS_ZSTD = typeof zlib.zstdDecompressSync === 'function';

/** The bytes of a frame that must be `expected` of them; no more memory than that is taken, and a window of 8 MiB. */
export function decodeZstd(bytes, expected) {
  if (!HAS_ZSTD) refuse('compression-codec', 'LZ4_FRAME, which this node can undo', 'ZSTD');
  const params = { [zlib.constants.ZSTD_d_windowLogMax]: 23 };
  try {
    const made = zlib.zstdDecompressSync(bytes, { params, maxOutputLength: Math.max(1, expected) });
    if (made.length === expected) return made;
  } catch {
    // Refused below.
  }
  return refuse('compression', `a Zstandard frame of ${expected} bytes`, 'another');
}

/** Arrow gives the frame alone; its length was checked in step 4. */
export const registerZstd = () => HAS_ZSTD && compressionRegistry.set(
  CompressionType.ZSTD, { decode: (bytes) => new Uint8Array(zlib.zstdDecompressSync(bytes)) },
);

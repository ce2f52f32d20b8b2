/** The checksum of LZ4 frames: xxHash, 32 bits, seed 0. */

const [P1, P2, P3, P4, P5] = [2654435761, 2246822519, 3266489917, 668265263, 374761393];
const rotate = (x, bits) => (x << bits) | (x >>> (32 - bits));

export function xxh32(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = bytes.length;
  let at = 0;
  let hash = P5;
  if (size >= 16) {
    const lanes = [P1 + P2, P2, 0, -P1];
    for (; at + 16 <= size; at += 16) {
      for (let k = 0; k < 4; k++) {
        lanes[k] = Math.imul(rotate(lanes[k] + Math.imul(view.getUint32(at + 4 * k, true), P2), 13), P1);
      }
    }
    hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
  }
  hash = (hash + size) | 0;
  for (; at + 4 <= size; at += 4) hash = Math.imul(rotate(hash + Math.imul(view.getUint32(at, true), P3), 17), P4);
  for (; at < size; at++) hash = Math.imul(rotate(hash + Math.imul(bytes[at], P5), 11), P1);
  hash = Math.imul(hash ^ (hash >>> 15), P2);
  hash = Math.imul(hash ^ (hash >>> 13), P3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

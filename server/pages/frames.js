// One Jupyter message as bytes: the framing `v1.kernel.websocket.jupyter.org`.
//
// A frame is: the number of offsets (64 bits, little endian), the offsets, the channel's name, then header, parent header,
// metadata and content as JSON, then buffers. Offset n is where piece n begins; the last one is the frame's length.

export const SUBPROTOCOL = "v1.kernel.websocket.jupyter.org";
const FIELDS = ["header", "parent_header", "metadata", "content"];

/** The frame of {channel, header, parent_header, metadata, content}. This page sends no buffers. */
export function pack(message) {
  const encoder = new TextEncoder();
  const pieces = [encoder.encode(message.channel)];
  for (const field of FIELDS) pieces.push(encoder.encode(JSON.stringify(message[field] ?? {})));
  const count = pieces.length + 1;
  let position = 8 * (count + 1);
  const frame = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, position));
  const numbers = new DataView(frame.buffer);
  numbers.setBigUint64(0, BigInt(count), true);
  pieces.forEach((piece, at) => {
    numbers.setBigUint64(8 * (at + 1), BigInt(position), true);
    frame.set(piece, position);
    position += piece.length;
  });
  numbers.setBigUint64(8 * count, BigInt(position), true);
  return frame;
}

/** The message in a frame (an ArrayBuffer) from the server. */
export function unpack(buffer) {
  const numbers = new DataView(buffer);
  const count = Number(numbers.getBigUint64(0, true));
  const offsets = Array.from({ length: count }, (_, at) => Number(numbers.getBigUint64(8 * (at + 1), true)));
  const decoder = new TextDecoder();
  const piece = (at) => new Uint8Array(buffer, offsets[at], offsets[at + 1] - offsets[at]);
  const message = { channel: decoder.decode(piece(0)) };
  FIELDS.forEach((field, at) => { message[field] = JSON.parse(decoder.decode(piece(at + 1))); });
  return message;
}

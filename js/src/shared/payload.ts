/** What nbsight/widgets/payload.py writes: named arrays in one buffer, described by the header. */
export const PROTOCOL = 1;

const TYPES = {
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  float32: Float32Array
} as const;

export interface ArrayPlace {
  dtype: keyof typeof TYPES;
  shape: number[];
  offset: number;
}

export interface Header {
  protocol: number;
  view: string;
  arrays: Record<string, ArrayPlace>;
  /** whether Python can be asked for more than was sent */
  live: boolean;
}

export interface NdArray {
  shape: number[];
  values: Uint8Array | Uint16Array | Uint32Array | Int32Array | Float32Array;
}

/** The arrays of a payload; throws an error that a user can act on when it cannot be read. */
export function decode(header: Header, buffer: DataView): Record<string, NdArray> {
  if (header.protocol !== PROTOCOL) {
    throw new Error(
      `This page speaks nbsight protocol ${PROTOCOL} and the kernel ${header.protocol}. ` +
        'Install one version of nbsight for both, restart the kernel and reload the page.'
    );
  }
  const arrays: Record<string, NdArray> = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    arrays[name] = {
      shape,
      values: view(
        buffer,
        dtype,
        offset,
        shape.reduce((a, b) => a * b, 1)
      )
    };
  }
  return arrays;
}

function view(
  buffer: DataView,
  dtype: keyof typeof TYPES,
  offset: number,
  length: number
): NdArray['values'] {
  const Type = TYPES[dtype];
  if (!Type) {
    throw new Error(`This page cannot read arrays of ${dtype}.`);
  }
  const start = buffer.byteOffset + offset;
  const bytes = length * Type.BYTES_PER_ELEMENT;
  if (offset + bytes > buffer.byteLength) {
    throw new Error(`The data ends after ${buffer.byteLength} of ${offset + bytes} bytes.`);
  }
  // A buffer is a slice of a websocket frame and may start at any byte.
  return start % Type.BYTES_PER_ELEMENT === 0
    ? new Type(buffer.buffer as ArrayBuffer, start, length)
    : new Type((buffer.buffer as ArrayBuffer).slice(start, start + bytes), 0, length);
}

/** The numbers of a buffer that is one array of float32. */
export function floats(buffer: DataView): Float32Array {
  return Float32Array.from({ length: buffer.byteLength / 4 }, (_, i) => buffer.getFloat32(4 * i, true));
}

/** The bytes of a base64 text, as saved in a notebook or an HTML page. */
export function fromBase64(text: string): DataView {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i++) {
    bytes[i] = characters.charCodeAt(i);
  }
  return new DataView(bytes.buffer);
}

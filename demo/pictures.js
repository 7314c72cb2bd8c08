// Read pictures that people hand over: the centre square of a file, as RGBA bytes.

const MAX_PIXELS = 2 ** 26; // as cifar_compare.pictures has it: a 50-megapixel photograph passes
const EXPECTED = "expected a JPEG, PNG, WebP, GIF, BMP or AVIF picture";
const SIGNATURES = [/^\xff\xd8\xff/, /^\x89PNG\r\n/, /^GIF8/, /^RIFF[^]{4}WEBP/, /^BM/, /^[^]{4}ftypavi[fs]/];

// Resolves to { size, data }; errors are sentences for people. Of an animated file the first frame is read.
export async function read(blob, name) {
  const start = String.fromCharCode(...new Uint8Array(await blob.slice(0, 16).arrayBuffer()));
  if (!SIGNATURES.some((signature) => signature.test(start))) {
    throw new Error(`${name} is ${blob.size ? "no picture that this page reads" : "empty"}: ${EXPECTED}.`);
  }
  const { width, height } = await sizeOf(blob).catch(() => ({ width: 0 }));
  if (!width) throw new Error(`${name} is damaged: ${EXPECTED}.`);
  if (width * height > MAX_PIXELS) {
    const millions = (pixels) => `${Math.round(pixels / 1e6)} million pixels`;
    throw new Error(`${name} has ${millions(width * height)}, the limit is ${millions(MAX_PIXELS)}: shrink it first.`);
  }
  try {
    // Colour profiles are not applied, as in `cifar_compare.pictures`.
    return squareOf(await createImageBitmap(blob, { colorSpaceConversion: "none" }));
  } catch {
    throw new Error(`${name} could not be decoded: ${EXPECTED}.`);
  }
}

// The centre square of whatever a canvas can draw, transparency laid over white.
export function squareOf(source) {
  const [width, height] = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
  const size = Math.min(width, height);
  const context = new OffscreenCanvas(size, size).getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, size, size);
  context.drawImage(source, -Math.floor((width - size) / 2), -Math.floor((height - size) / 2));
  source.close?.();
  return { size, data: context.getImageData(0, 0, size, size).data };
}

// Through a JPEG file of the browser's making.
export async function throughJpeg(image, quality) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return squareOf(await createImageBitmap(await canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 })));
}

// Width and height, which an image element knows before it decodes the pixels.
async function sizeOf(blob) {
  const address = URL.createObjectURL(blob);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject, src: address }));
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    URL.revokeObjectURL(address);
  }
}

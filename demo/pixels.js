// Arithmetic on pixels. A picture is { size, data }: a square, RGB in [0, 255], Float32Array of size × size × 3 values.

const KERNELS = {
  // Keys (1981), with a = -0.5, as in TensorFlow.
  bicubic: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : ((-0.5 * x + 2.5) * x - 4) * x + 2)],
  bilinear: [1, (x) => 1 - x],
};

// For each place of the result: the first place of the source that it takes from, and the weights from there on.
function weightsOf(from, to, method, antialias) {
  const ratio = from / to;
  if (method === "nearest") {
    return Array.from({ length: to }, (_, i) => ({ first: Math.floor((i + 0.5) * ratio), weights: [1] }));
  }
  const [radius, kernel] = KERNELS[method];
  const stretch = antialias ? Math.max(ratio, 1) : 1; // a wider kernel smooths before it shrinks
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * ratio;
    const first = Math.max(0, Math.ceil(centre - radius * stretch - 0.5));
    const last = Math.min(from - 1, Math.floor(centre + radius * stretch - 0.5));
    const weights = [];
    for (let place = first; place <= last; place++) {
      const distance = Math.abs(place + 0.5 - centre) / stretch;
      weights.push(distance < radius ? kernel(distance) : 0);
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

// Resize as `cifar_compare.models.resize` does, which is TensorFlow's antialiased bicubic by default.
export function resize({ size, data }, side, method = "bicubic", antialias = true) {
  const channels = data.length / (size * size); // 4 straight from a canvas, whose alpha is left out
  if (size === side && channels === 3) return { size, data };
  const places = weightsOf(size, side, method, antialias);
  const narrow = new Float32Array(size * side * 3);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < side; x++) {
      const { first, weights } = places[x];
      let [red, green, blue] = [0, 0, 0];
      let at = (y * size + first) * channels;
      for (let i = 0; i < weights.length; i++, at += channels) {
        red += weights[i] * data[at];
        green += weights[i] * data[at + 1];
        blue += weights[i] * data[at + 2];
      }
      const to = (y * side + x) * 3;
      narrow[to] = red;
      narrow[to + 1] = green;
      narrow[to + 2] = blue;
    }
  }
  const row = side * 3;
  const result = new Float32Array(side * row);
  for (let y = 0; y < side; y++) {
    const { first, weights } = places[y];
    for (let i = 0; i < weights.length; i++) {
      const from = (first + i) * row;
      for (let x = 0; x < row; x++) result[y * row + x] += weights[i] * narrow[from + x];
    }
  }
  for (let i = 0; i < result.length; i++) result[i] = Math.min(255, Math.max(0, result[i])); // bicubic overshoots
  return { size: side, data: result };
}

// What a file of 8 bits a channel keeps.
export function rounded({ size, data }) {
  return { size, data: data.map((value) => Math.min(255, Math.max(0, Math.round(value)))) };
}

// Gaussian noise (Box-Muller), the same each time, so that a link shows everyone the same picture.
export function noisy({ size, data }, deviation) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' generator
    return (state + 1) / 4294967297;
  };
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return rounded({ size, data: data.map((value) => value + 255 * deviation * normal()) });
}

export function toImageData({ size, data }) {
  if (data instanceof Uint8ClampedArray) return new ImageData(data, size, size); // came from a canvas
  const image = new ImageData(size, size);
  image.data.fill(255);
  for (let i = 0; i < data.length; i++) image.data[i + Math.floor(i / 3)] = data[i]; // every fourth byte is the alpha
  return image;
}

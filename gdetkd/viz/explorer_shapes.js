// Numbers and shapes of the proposal explorer; goes before explorer.js.

const chunks = (flat, size) => Array.from({ length: flat.length / size }, (_, i) => flat.slice(size * i, size * (i + 1)));
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const spread = (path) => Math.max(...path.map(([x, y]) => Math.hypot(x - path[0][0], y - path[0][1])));

function unitRows(encoded, count) { // bytes in base64 as rows of length 1
  const text = atob(encoded), dim = text.length / count, rows = new Float32Array(text.length);
  for (let start = 0; start < rows.length; start += dim) {
    let sum = 0;
    for (let k = start; k < start + dim; k++) {
      rows[k] = (text.charCodeAt(k) << 24) >> 24; // a signed byte
      sum += rows[k] * rows[k];
    }
    const norm = Math.sqrt(sum) || 1;
    for (let k = start; k < start + dim; k++) rows[k] /= norm;
  }
  return { dim, rows };
}

function product({ dim, rows }, i, j) {
  let sum = 0;
  for (let k = 0, a = i * dim, b = j * dim; k < dim; k++) sum += rows[a + k] * rows[b + k];
  return sum;
}

function overlap(a, b) { // IoU
  const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both / (area(a) + area(b) - both || 1);
}

function within([x, y], path) { // crossings of a ray
  return path.reduce((inside, [x1, y1], k) => {
    const [x2, y2] = path[(k + 1) % path.length];
    return y1 > y !== y2 > y && x < x1 + ((x2 - x1) * (y - y1)) / (y2 - y1) ? !inside : inside;
  }, false);
}

function ramp(stops) { // 256 colors between "#rrggbb", as pixels of an ImageData
  const rgb = stops.map((stop) => [1, 3, 5].map((at) => parseInt(stop.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, k) => {
    const place = (k / 255) * (rgb.length - 1), low = Math.min(rgb.length - 2, Math.floor(place));
    const [r, g, b] = rgb[low].map((value, c) => Math.round(value + (place - low) * (rgb[low + 1][c] - value)));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  });
}

function heatMap(size, shades, value) { // a pixel for each pair; value(i, j) is symmetric, 0 to 1
  const image = new ImageData(size, size), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      const shade = shades[Math.max(0, Math.min(255, Math.round(255 * value(i, j))))];
      pixels[i * size + j] = pixels[j * size + i] = shade;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function surface(canvas, width, height) { // cleared, in CSS pixels
  const ratio = devicePixelRatio;
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  canvas.style.height = `${height}px`;
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  return g;
}

function dot(g, x, y, radius, color, filled, thick = 1.3) {
  g.beginPath();
  g.arc(x, y, radius, 0, 7);
  [g.fillStyle, g.strokeStyle, g.lineWidth] = [color, color, thick];
  if (filled) g.fill();
  else g.stroke();
}

function line(g, points, color, thick, dash = []) {
  g.beginPath();
  points.forEach((point) => g.lineTo(...point));
  [g.strokeStyle, g.lineWidth] = [color, thick];
  g.setLineDash(dash);
  g.stroke();
  g.setLineDash([]);
}

function rectangle(g, [x1, y1, x2, y2], color, thick, dash) {
  line(g, [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], color, thick, dash);
}

function crop(g, source, width, [x1, y1, x2, y2], x, y, size) { // a box with some surroundings
  g.fillStyle = "#7775";
  g.fillRect(x, y, size, size);
  if (!source) return;
  const side = 1.3 * Math.max(x2 - x1, y2 - y1, 1), k = source.naturalWidth / width;
  g.drawImage(source, k * ((x1 + x2 - side) / 2), k * ((y1 + y2 - side) / 2), k * side, k * side, x, y, size, size);
}

function tag(g, text, x, y, color, width, behind = "#000a") { // a label on a picture, within it
  g.font = "bold 12px system-ui, sans-serif";
  const long = g.measureText(text).width + 6, left = Math.max(0, Math.min(x, width - long)), base = Math.min(y, width - 3);
  g.fillStyle = behind;
  g.fillRect(left, base - 12, long, 15);
  g.fillStyle = color;
  g.fillText(text, left + 3, base);
}

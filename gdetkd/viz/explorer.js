// The proposal explorer: an embedding, a similarity matrix, a picture and the nearest crops for each
// detector, all of the same proposals. A proposal is a number; what is picked (pink), compared (the
// ring) and brushed is shared by all views. `data` is what `explorer_data` of explorer.py makes.

const NEIGHBORS = 12, ROWS = 240, PAD = 12, BAND = 6;

function explore(root, data, model) {
  const count = data.image.length, classes = data.classes.length;
  const all = Array.from({ length: count }, (_, i) => i);
  const boxes = chunks(data.box, 4);
  const detectors = data.detectors.map((each) => ({
    ...each, boxes: each.box && chunks(each.box, 4), unit: unitRows(each.vectors, count), near: new Map(),
  }));
  const rank = new Int32Array(count); // the place of a proposal in the order by class
  data.order.forEach((proposal, place) => { rank[proposal] = place; });
  const state = { picked: -1, peek: -1, brushed: null, image: 0, waiting: false };
  const views = [], pictures = [];

  // The proposals

  const name = (label) => (label < 0 ? "-" : label < classes ? data.classes[label] : "background");
  const color = (label) => (label < classes ? data.colors[label] : theme.background);
  const right = (d, i) => d.said === null || d.said[i] === data.label[i];
  const score = (d, i) => (d.score ? d.score[i].toFixed(2) : "");
  const cosine = (d, i, j) => product(d.unit, i, j);
  const brushedOnes = () => (state.brushed ? [...state.brushed] : []);
  const isBrushed = (i) => state.brushed !== null && state.brushed.has(i);

  function neighbors(d, i) { // of other images, the most similar first
    if (i < 0) return [];
    if (!d.near.has(i)) {
      const values = all.map((j) => cosine(d, i, j));
      const others = all.filter((j) => data.image[j] !== data.image[i]);
      d.near.set(i, others.sort((a, b) => values[b] - values[a]).slice(0, NEIGHBORS));
    }
    return d.near.get(i);
  }

  const ordered = (proposals) => [...proposals].sort((a, b) => rank[a] - rank[b]);
  const sample = (proposals, most) => { // at most so many, evenly
    const from = ordered(proposals), share = Math.min(1, most / from.length);
    return from.filter((_, k) => Math.floor(k * share) !== Math.floor((k - 1) * share));
  };

  function matrixRows() { // the brushed or all, at most so many, with the picked one and its neighbors
    const near = state.picked < 0 ? [] : [state.picked, ...detectors.flatMap((d) => neighbors(d, state.picked))];
    return ordered(new Set([...sample(state.brushed || all, ROWS), ...near]));
  }

  // What a reader does

  function change(next) {
    Object.assign(state, next);
    if (state.picked >= 0) state.image = data.image[state.picked];
    if (model && ("picked" in next || "brushed" in next)) {
      model.set({ picked: state.picked, brushed: brushedOnes() });
      model.save_changes();
    } else if (!model && "picked" in next) history.replaceState(null, "", `#${state.picked < 0 ? "" : state.picked}`);
    redraw();
  }
  const pick = (i, peek = -1) => change({ picked: i, peek });
  const brush = (proposals) => change({ picked: -1, peek: -1, brushed: proposals.length ? new Set(proposals) : null });
  const clear = () => change({ picked: -1, peek: -1, brushed: null });

  function step(d, by) { // through the neighbors in one detector
    if (state.picked < 0) return pick(ordered(state.brushed || all)[0]);
    const near = neighbors(d, state.picked), place = near.indexOf(state.peek);
    const next = Math.max(-1, Math.min(near.length - 1, place + by));
    change({ peek: next < 0 ? -1 : near[next] });
  }

  root.classList.add("gdetkd-explorer");
  root.dataset.lmSuppressShortcuts = "true"; // arrows are for us, not for JupyterLab
  (model ? root : document).addEventListener("keydown", (event) => {
    const section = event.target.closest("section");
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") clear();
    else if (section && by) step(detectors[section.dataset.detector], by);
    else if (section && event.key === "Enter" && state.peek >= 0) pick(state.peek);
    else return;
    event.preventDefault();
  });

  function listen(view) { // a click picks, a drag brushes, the pointer compares
    const { canvas } = view;
    let path = null;
    const at = (event) => [event.offsetX, event.offsetY];
    const end = (event) => {
      const drawn = path;
      path = view.path = null;
      if (drawn === null) return;
      if (event.type === "pointercancel") redraw();
      else if (spread(drawn) > 5) brush(view.inside(drawn));
      else if (view.hit(...drawn[0]) >= 0) pick(view.hit(...drawn[0]), view.other ? view.other(...drawn[0]) : -1);
    };
    canvas.addEventListener("pointerdown", (event) => {
      path = [at(event)];
      if (event.pointerType === "mouse" || root.classList.contains("brushing")) canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (path) {
        path.push(at(event));
        view.path = path;
        redraw();
      } else if (event.pointerType === "mouse") {
        const peek = (view.other || view.hit)(...at(event));
        if (peek !== state.peek) change({ peek });
      }
    });
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => { if (!path && state.peek >= 0) change({ peek: -1 }); });
  }

  // Drawing: `base` is what stays while the pointer moves

  const theme = {}; // read from the styles at every drawing

  function redraw() { // once per frame
    if (!state.waiting) requestAnimationFrame(() => { state.waiting = false; draw(); });
    state.waiting = true;
  }

  function draw() {
    const styles = getComputedStyle(root);
    for (const key of ["ink", "background"]) theme[key] = styles.getPropertyValue(`--${key}`).trim();
    root.dataset.picked = state.picked;
    root.dataset.peek = state.peek;
    root.dataset.brushed = state.brushed ? state.brushed.size : 0;
    describe();
    state.rows = matrixRows();
    for (const view of views) {
      const width = view.canvas.clientWidth;
      if (!width) continue;
      const g = surface(view.canvas, width, view.height(width));
      const key = [width, devicePixelRatio, theme.ink, view.key ? view.key() : ""].join();
      if (view.base && view.baseKey !== key) {
        view.layer = view.layer || document.createElement("canvas");
        view.base(surface(view.layer, width, view.height(width)), width);
        view.baseKey = key;
      }
      if (view.layer) g.drawImage(view.layer, 0, 0, width, view.height(width));
      view.draw(g, width);
      if (view.path) line(g, view.path, theme.ink, 1.5, [4, 3]);
    }
    if (root.clientWidth) root.dataset.drawn ||= Math.round(performance.now()); // ms since the page was opened
  }

  function photo(image) { // decoded when it is needed for the first time
    if (!pictures[image]) {
      pictures[image] = new Image();
      pictures[image].onload = redraw;
      pictures[image].src = data.images[image].src;
    }
    return pictures[image].complete && pictures[image].naturalWidth ? pictures[image] : null;
  }

  function embedding(d, canvas) {
    const place = (i, width) => [PAD + d.x[i] * (width - 2 * PAD), PAD + d.y[i] * (width - 2 * PAD)];
    const points = () => all.map((i) => place(i, canvas.clientWidth));
    return {
      canvas, height: (width) => width, key: () => brushedOnes().join(" "),
      hit: (x, y) => {
        const far = points().map(([a, b]) => Math.hypot(a - x, b - y)), least = Math.min(...far);
        return least < 12 ? far.indexOf(least) : -1;
      },
      inside: (path) => points().flatMap((point, i) => (within(point, path) ? [i] : [])),
      base: (g, width) => { // the background and what is not brushed lie below
        const depth = (i) => 2 * isBrushed(i) + (data.label[i] < classes);
        const radius = Math.max(2, width / 140);
        for (const i of [...all].sort((a, b) => depth(a) - depth(b))) {
          const object = data.label[i] < classes;
          const [x, y] = place(i, width), seen = state.brushed && !isBrushed(i) ? 0.15 : 1;
          g.globalAlpha = seen * (object ? 0.3 + 1.4 * (data.iou[i] - 0.5) : 0.7);
          dot(g, x, y, object ? radius : 0.7 * radius, color(data.label[i]), right(d, i));
        }
        g.globalAlpha = 1;
      },
      draw: (g, width) => {
        const near = neighbors(d, state.picked);
        for (const i of near) line(g, [place(state.picked, width), place(i, width)], data.highlight, 1);
        for (const i of near) dot(g, ...place(i, width), 5, data.highlight, false, 1.5);
        if (state.picked >= 0) dot(g, ...place(state.picked, width), 8, data.highlight, false, 3.5);
        if (state.peek >= 0) dot(g, ...place(state.peek, width), 8, theme.ink, false, 2);
      },
    };
  }

  function matrix(d, canvas) {
    const cell = (x) => state.rows[Math.floor(((x - BAND) / (canvas.clientWidth - BAND)) * state.rows.length)] ?? -1;
    const middle = (k) => BAND + ((k + 0.5) * (canvas.clientWidth - BAND)) / state.rows.length;
    return {
      canvas, height: (width) => width, key: () => state.rows.join(" "),
      hit: (x, y) => cell(y), other: (x) => cell(x),
      inside: (path) => {
        const ends = [0, 1].map((axis) => path.map((point) => point[axis])); // of its rows and columns
        const between = (k, v) => Math.min(...v) <= middle(k) && middle(k) <= Math.max(...v);
        return state.rows.filter((_, k) => ends.some((v) => between(k, v)));
      },
      base: (g, width) => {
        const { rows } = state, [low, high] = data.limits, thick = (width - BAND) / rows.length;
        const small = heatMap(rows.length, shades, (i, j) => (cosine(d, rows[i], rows[j]) - low) / (high - low));
        g.imageSmoothingEnabled = false;
        g.drawImage(small, BAND, BAND, width - BAND, width - BAND);
        rows.forEach((i, k) => {
          g.fillStyle = color(data.label[i]);
          g.fillRect(0, BAND + k * thick, BAND - 1, thick + 0.5);
          g.fillRect(BAND + k * thick, 0, thick + 0.5, BAND - 1);
        });
      },
      draw: (g, width) => {
        for (const [i, stroke] of [[state.peek, "#fff"], [state.picked, data.highlight]]) {
          const k = state.rows.indexOf(i);
          if (i < 0 || k < 0) continue;
          line(g, [[0, middle(k)], [width, middle(k)]], stroke, 1.5);
          line(g, [[middle(k), 0], [middle(k), width]], stroke, 1.5);
        }
      },
    };
  }

  function scene(d, canvas) {
    const shown = () => (state.peek >= 0 ? state.peek : state.picked);
    const image = () => (shown() >= 0 ? data.image[shown()] : state.image);
    const here = () => all.filter((i) => data.image[i] === image());
    const zoom = () => canvas.clientWidth / Math.max(data.images[image()].width, data.images[image()].height);
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    return {
      canvas, height: (width) => width,
      hit: (x, y) => {
        const [a, b] = [x / zoom(), y / zoom()];
        const under = here().filter((i) => boxes[i][0] <= a && a <= boxes[i][2] && boxes[i][1] <= b && b <= boxes[i][3]);
        return under.sort((i, j) => area(boxes[i]) - area(boxes[j]))[0] ?? -1;
      },
      inside: (path) => here().filter((i) => within([0, 1].map((k) => (zoom() * (boxes[i][k] + boxes[i][k + 2])) / 2), path)),
      draw: (g, width) => {
        const { width: w, height: h, truth } = data.images[image()], k = zoom();
        const frame = (box, stroke, thick, dash) => rectangle(g, box.map((side) => k * side), stroke, thick, dash);
        const source = photo(image());
        if (source) g.drawImage(source, 0, 0, k * w, k * h);
        for (const i of here()) frame(boxes[i], isBrushed(i) ? color(data.label[i]) : "#fff8", isBrushed(i) ? 2 : 1);
        for (const [box, label] of truth) {
          frame(box, "#000", 2.5);
          frame(box, "#fff", 1.5, [5, 4]);
          tag(g, name(label), k * box[0], k * box[3] + 14, "#fff", width);
        }
        const i = shown();
        if (i < 0) return;
        if (data.image[state.picked] === image()) frame(boxes[state.picked], data.highlight, 3);
        if (state.peek >= 0) frame(boxes[i], "#fff", 3);
        const box = d.boxes ? d.boxes[i] : boxes[i];
        if (d.boxes) frame(box, d.color, 3);
        if (d.said) tag(g, `${name(d.said[i])} ${score(d, i)}`, k * box[0], Math.max(14, k * box[1] - 4), "#fff", width, d.color);
      },
    };
  }

  function crops(canvas, items, columns, least, caption) { // a grid, its frames in the colors of the classes
    const size = () => canvas.clientWidth / columns(), low = caption ? 16 : 0;
    const cell = (k) => [(k % columns()) * size(), Math.floor(k / columns()) * (size() + low)];
    return {
      canvas, height: () => Math.max(least, Math.ceil(items().length / columns())) * (size() + low) || 1,
      hit: (x, y) => items()[Math.floor(y / (size() + low)) * columns() + Math.floor(x / size())] ?? -1,
      inside: (path) => items().filter((_, k) => within(cell(k).map((corner) => corner + size() / 2), path)),
      draw: (g) => items().forEach((i, k) => {
        const [x, y] = cell(k), side = size() - 4, stroke = i === state.peek ? theme.ink : i === state.picked ? data.highlight : color(data.label[i]);
        crop(g, photo(data.image[i]), data.images[data.image[i]].width, boxes[i], x + 2, y + 2, side);
        rectangle(g, [x + 2, y + 2, x + 2 + side, y + 2 + side], stroke, 3);
        if (!caption) return;
        g.font = `${data.label[i] === data.label[state.picked] ? "bold " : ""}11px system-ui, sans-serif`;
        g.fillStyle = theme.ink;
        g.fillText(caption(i), x + 3, y + size() + 10, side);
      }),
    };
  }

  // Text

  function describe() {
    const { picked, peek, brushed } = state, i = picked >= 0 ? picked : peek;
    const told = (p) => `${escape(name(data.label[p]))}, IoU ${data.iou[p].toFixed(2)}, in ${escape(data.images[data.image[p]].name)}`;
    const mean = (rows, value) => (rows.length ? rows.reduce((sum, p) => sum + value(p), 0) / rows.length : 0);
    let head, title, cells;
    if (i >= 0) {
      const truth = data.images[data.image[i]].truth;
      const best = (box) => Math.max(0, ...truth.map(([other]) => overlap(box, other))).toFixed(2);
      const compared = picked >= 0 && peek >= 0;
      title = `<b>${picked >= 0 ? "Picked" : "Here"}:</b> ${told(i)}${compared ? `<br><b>Compared:</b> ${told(peek)}` : ""}`;
      head = ["says", "score", "its box's IoU", `of ${NEIGHBORS} neighbors, same class`, ...(compared ? ["cosine of the two"] : [])];
      cells = (d) => [
        d.said ? `${right(d, i) ? "✓" : "✗"} ${escape(name(d.said[i]))}` : "-", score(d, i), d.boxes ? best(d.boxes[i]) : "-",
        neighbors(d, i).filter((j) => data.label[j] === data.label[i]).length, ...(compared ? [cosine(d, i, peek).toFixed(2)] : []),
      ];
    } else {
      const rows = brushed ? brushedOnes() : all;
      title = `<b>${brushed ? "Brushed" : "All"}:</b> ${rows.length} proposals, ${rows.filter((p) => data.label[p] < classes).length} on objects`;
      head = ["class correct", "mean score", `agreement with ${escape(detectors[0].name)}, all proposals`];
      cells = (d) => [
        d.said ? `${Math.round(100 * mean(rows, (p) => right(d, p)))}%` : "-",
        d.score ? mean(rows, (p) => d.score[p]).toFixed(2) : "-", d.agreement.toFixed(2),
      ];
    }
    const line = (d) => `<tr><th><i style="background:${d.color}"></i>${escape(d.name)}</th>${cells(d).map((c) => `<td>${c}</td>`).join("")}</tr>`;
    const text = `<p>${title}</p><table><tr><th></th>${head.map((h) => `<th>${h}</th>`).join("")}</tr>${detectors.map(line).join("")}</table>`;
    if (text !== state.text) card.innerHTML = state.text = text;
  }

  // The page

  const shades = ramp(data.heat);
  const labels = [...data.classes.keys(), classes].filter((label) => data.label.includes(label));
  root.innerHTML = `<div class="legend">${labels.map((l) => `<button data-label="${l}" title="brush this class"><i></i>${escape(name(l))}</button>`).join("")}
    <button class="touch">brush by touch</button></div>
    <p class="hint">● the detector's class is correct, ○ it is not; fainter: less overlap with an object. Click to pick, drag to brush, anywhere.
    Keys: <kbd>←</kbd> <kbd>→</kbd> through the neighbors, <kbd>Enter</kbd> picks one, <kbd>Tab</kbd> to the next detector, <kbd>Esc</kbd> clears.</p>
    <div class="now"><canvas class="shown"></canvas><div class="card" aria-live="polite"></div></div>
    <canvas class="gallery"></canvas><div class="columns">${detectors.map((d, k) => `<section tabindex="0" data-detector="${k}" aria-label="${escape(d.name)}">
    <h3 style="border-color:${d.color}">${escape(d.name)}</h3><canvas class="embedding"></canvas><h4>cosine similarities by class, ${data.limits[0]} dark, ${data.limits[1]} bright</h4><canvas class="matrix"></canvas>
    <h4>picture</h4><canvas class="scene"></canvas><h4>most similar, in other images</h4><canvas class="neighbors"></canvas></section>`).join("")}</div>`;
  const card = root.querySelector(".card"), legend = [...root.querySelectorAll("[data-label]")];
  legend.forEach((button) => {
    button.firstChild.style.background = +button.dataset.label < classes ? color(+button.dataset.label) : "var(--background)";
    button.onclick = () => brush(all.filter((i) => data.label[i] === +button.dataset.label));
  });
  root.querySelector(".touch").onclick = () => root.classList.toggle("brushing");
  root.querySelectorAll("section").forEach((section, k) => {
    const at = (kind) => section.querySelector(`.${kind}`), d = detectors[k];
    const near = crops(at("neighbors"), () => neighbors(d, state.picked), () => 6, 2, (i) => `${name(data.label[i])} ${cosine(d, state.picked, i).toFixed(2)}`);
    views.push(embedding(d, at("embedding")), matrix(d, at("matrix")), scene(d, at("scene")), near);
  });
  const gallery = root.querySelector(".gallery"), wide = () => Math.floor(gallery.clientWidth / 44);
  views.push(crops(gallery, () => sample(state.brushed || all, 2 * wide()), wide, 2));
  views.push(crops(root.querySelector(".shown"), () => [state.picked, state.peek].filter((i) => i >= 0), () => 2, 1));
  views.forEach(listen);
  new ResizeObserver(redraw).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  if (model) {
    model.on("change:picked", () => { if (model.get("picked") !== state.picked) pick(model.get("picked")); });
    model.on("change:brushed", () => { if (`${model.get("brushed")}` !== `${brushedOnes()}`) brush(model.get("brushed")); });
  }
  const link = model ? -1 : parseInt(location.hash.slice(1)); // page.html#7 has 7 picked
  if (link >= 0 && link < count) state.picked = link;
  draw();
}

export default { render: ({ model, el }) => explore(el.appendChild(document.createElement("div")), model.get("data"), model) };
const page = document.getElementById("gdetkd-explorer"); // of the HTML file
if (page) explore(page, JSON.parse(document.getElementById("gdetkd-data").textContent));

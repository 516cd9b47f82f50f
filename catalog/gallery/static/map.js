// The map: draws the points that the server sends, moves and zooms them, names the one under the
// pointer, and asks the server for a part that was chosen. All words and numbers are the server's.
const map = document.getElementById("map");
if (map) start(map, map.querySelector("canvas"), map.dataset);

function pairs(ends) { return ends.flatMap((x, n) => (n % 2 ? [] : [[x, ends[n + 1]]])); }

function start(map, canvas, told) {
  const pen = canvas.getContext("2d"), sets = [], hidden = new Set();
  const boxes = [...map.querySelectorAll("input[data-class]")];
  const classes = new Map(boxes.map((box, n) => [box.dataset.class, n]));
  const [hint, shown] = map.querySelector(".shown").children, status = document.getElementById("map-told");
  const corners = told.lasso ? pairs(told.lasso.split(",").map(Number)) : null;
  const chosen = told.box ? told.box.split(",").map(Number) : null;
  const pointers = new Map(), still = matchMedia("(prefers-color-scheme: dark)");
  // where the middle of the picture is on the map, and how many pixels one of its units is
  let view = null, home = null, colours = [], drawing = null, near = null, waiting = 0, ready = 0;

  function repaint() { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); }); }
  function readColours() {
    const style = getComputedStyle(map), of = (name) => style.getPropertyValue(name).trim();
    colours = [...Array(10).keys()].map((n) => of(`--c${n}`));
    colours.other = of("--grey"), colours.ink = of("--ink"), colours.blue = of("--blue"), colours.paper = of("--paper");
  }
  const colour = (c) => colours[c] ?? colours.other;
  const px = (x) => (x - view.x) * view.unit + canvas.clientWidth / 2;
  const py = (y) => canvas.clientHeight / 2 - (y - view.y) * view.unit;
  const ux = (left) => (left - canvas.clientWidth / 2) / view.unit + view.x;
  const uy = (top) => (canvas.clientHeight / 2 - top) / view.unit + view.y;

  // --- points: layer after layer, class after class, as the server sorted them
  function unpack(buffer, real) {
    const size = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
    const n = head.n, at = 4 + size, [x0, y0, x1, y1] = head.box;
    const gx = new Uint16Array(buffer, at, n), gy = new Uint16Array(buffer, at + 2 * n, n);
    const x = Float32Array.from(gx, (v) => x0 + ((x1 - x0) * v) / 65535);
    const y = Float32Array.from(gy, (v) => y0 + ((y1 - y0) * v) / 65535);
    let from = 0;
    const runs = head.runs.map(([layer, kind, count]) => {
      const name = head.names[kind], c = classes.get(name);
      const run = { layer, name, c: c < 10 ? c : -1, from, to: from + count };
      from += count;
      return run;
    });
    sets.push({ x, y, runs, number: new Uint32Array(buffer, at + 4 * n, n), real, head });
    return head;
  }
  function reset(head) {
    const [x0, y0, x1, y1] = head.look, w = canvas.clientWidth, h = canvas.clientHeight;
    const unit = 0.9 * Math.min(w / (x1 - x0 || 1), h / (y1 - y0 || 1));
    home = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, unit };
    const kept = location.hash.slice(1).split(",").map(Number);
    const again = kept.length === 3 && kept.every(Number.isFinite) && kept[2] > 0;
    view ??= again ? { x: kept[0], y: kept[1], unit: kept[2] } : { ...home };
  }
  const seen = (run) => !hidden.has(`l${run.layer}`) && !hidden.has(`c${run.name}`);

  // --- drawing: small squares; crosses are rejected, rings near copies, diamonds real
  function draw() {
    const scale = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
    if (canvas.width !== w * scale || canvas.height !== h * scale) {
      canvas.width = w * scale, canvas.height = h * scale;
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, w, h);
    if (!view) return;
    const count = sets.reduce((sum, set) => sum + set.head.n, 0);
    const base = count > 5e4 ? 1 : count > 1e4 ? 1.5 : count > 2e3 ? 2.5 : 4;
    const r = Math.min(9, base * Math.max(1, Math.sqrt(view.unit / home.unit)));
    for (const layer of [0, 1, 3, 2]) {
      for (const set of sets) for (const run of set.runs) {
        if (run.layer === layer && seen(run)) paint(set, run, r, w, h);
      }
    }
    pen.globalAlpha = 1;
    if (near) circle(px(near.set.x[near.i]), py(near.set.y[near.i]), r + 4);
    if (corners) outline(corners.map(([x, y]) => [px(x), py(y)]), 2);
    if (chosen) frame(px(chosen[0]), py(chosen[3]), px(chosen[2]), py(chosen[1]), 2);
    if (drawing?.path) outline(drawing.path, 1);
    else if (drawing) frame(drawing.x0, drawing.y0, drawing.x1, drawing.y1, 1);
  }
  function paint(set, run, r, w, h) {
    const { x, y } = set, unit = view.unit, left = w / 2 - view.x * unit, top = h / 2 + view.y * unit;
    pen.fillStyle = pen.strokeStyle = colour(run.c);
    pen.globalAlpha = run.layer === 1 ? 0.75 : run.layer === 0 ? 0.8 : 1;
    pen.lineWidth = run.layer === 2 ? 2 : 1.5;
    for (let i = run.from; i < run.to; i++) {
      const a = x[i] * unit + left, b = top - y[i] * unit;
      if (a < -9 || b < -9 || a > w + 9 || b > h + 9) continue;
      if (run.layer === 0) pen.fillRect(a - r, b - r, 2 * r, 2 * r);
      else if (run.layer === 1) {
        pen.fillRect(a - 1.5 * r, b - r / 3, 3 * r, (2 * r) / 3);
        pen.fillRect(a - r / 3, b - 1.5 * r, (2 * r) / 3, 3 * r);
      } else mark(run.layer, a, b, Math.max(4, 1.5 * r));
    }
  }
  function mark(layer, a, b, r) {
    pen.beginPath();
    if (layer === 2) pen.arc(a, b, r, 0, 7);
    else pen.moveTo(a - r, b), pen.lineTo(a, b - r), pen.lineTo(a + r, b), pen.lineTo(a, b + r), pen.closePath();
    if (layer === 3) pen.fill(), pen.strokeStyle = colours.ink;
    pen.stroke();
  }
  function circle(a, b, r) {
    pen.strokeStyle = colours.ink, pen.lineWidth = 2;
    pen.beginPath(), pen.arc(a, b, r, 0, 7), pen.stroke();
  }
  function frame(x0, y0, x1, y1, width) {
    pen.strokeStyle = colours.blue, pen.lineWidth = width;
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  function outline(path, width) {
    pen.beginPath();
    path.forEach(([a, b], n) => (n ? pen.lineTo(a, b) : pen.moveTo(a, b)));
    pen.closePath();
    for (const [colour, more] of [[colours.paper, 3], [colours.blue, 0]]) { // seen among points too
      pen.strokeStyle = colour, pen.lineWidth = width + more, pen.stroke();
    }
  }

  // --- the image under the pointer
  function pick(left, top, reach) {
    let best = reach * reach, found = null;
    for (const set of sets) for (const run of set.runs) if (seen(run)) {
      for (let i = run.from; i < run.to; i++) {
        const a = px(set.x[i]) - left, b = py(set.y[i]) - top, far = a * a + b * b;
        if (far < best) best = far, found = { set, run, i };
      }
    }
    return found;
  }
  function name(found) {
    if (found?.i === near?.i && found?.set === near?.set) return;
    near = found;
    repaint();
    if (!found) return;
    const number = found.set.number[found.i], real = found.set.real;
    const place = real ? `/at-real/${number}` : told.at + number;
    clearTimeout(ready);
    ready = setTimeout(() => { // a moving pointer passes hundreds
      const words = `${["", "rejected ", "near copy, ", "real "][found.run.layer]}${found.run.name}`;
      shown.hidden = !(hint.hidden = true);
      shown.href = real || !told.query ? place : `${place}?${told.query}`;
      shown.querySelector("img").src = real ? place : `${place}.png`;
      shown.querySelector("img").alt = shown.querySelector("span").textContent = words;
    }, 40);
  }

  // --- moving, zooming, choosing
  function zoom(by, left = canvas.clientWidth / 2, top = canvas.clientHeight / 2) {
    const x = ux(left), y = uy(top);
    view.unit = Math.min(home.unit * 4000, Math.max(home.unit / 20, view.unit * by));
    view.x += x - ux(left), view.y += y - uy(top);
    moved();
  }
  function moved() {
    repaint();
    clearTimeout(moved.later);
    moved.later = setTimeout(() => history.replaceState(null, "",
      `#${[view.x, view.y, view.unit].map((v) => v.toPrecision(6))}`), 300);
  }
  const tools = ["choose", "around"].map((name) => map.querySelector(`[data-do=${name}]`));
  const [choosing, around] = tools.map((tool) => () => tool.getAttribute("aria-pressed") === "true");
  const here = (event) => {
    const edge = canvas.getBoundingClientRect();
    return [event.clientX - edge.left, event.clientY - edge.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!view || event.button) return;
    const [x, y] = here(event);
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x, y, far: 0 });
    if (pointers.size > 1) drawing = null;
    else if (around()) drawing = { path: [[x, y]] };
    else if (choosing() || event.shiftKey) drawing = { x0: x, y0: y, x1: x, y1: y };
    else drawing = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!view) return;
    const [x, y] = here(event), held = pointers.get(event.pointerId);
    if (!held) return name(pick(x, y, 14));
    const dx = x - held.x, dy = y - held.y, [other] = [...pointers.values()].filter((p) => p !== held);
    if (drawing?.path) drawing.path.push([x, y]), repaint();
    else if (drawing) drawing.x1 = x, drawing.y1 = y, repaint();
    else if (other) { // two fingers
      const before = Math.hypot(held.x - other.x, held.y - other.y) || 1;
      zoom((Math.hypot(x - other.x, y - other.y) || 1) / before, other.x, other.y);
    } else view.x -= dx / view.unit, view.y += dy / view.unit, moved();
    held.x = x, held.y = y, held.far += Math.hypot(dx, dy);
  });
  canvas.addEventListener("pointerup", (event) => {
    const held = pointers.get(event.pointerId), area = drawing;
    pointers.delete(event.pointerId), drawing = null;
    if (!held) return;
    if (area?.path) { if (held.far > 30) askAround(area.path); }
    else if (area && Math.abs(area.x1 - area.x0) > 4 && Math.abs(area.y1 - area.y0) > 4) ask(area);
    else if (held.far < 6) near = null, name(pick(held.x, held.y, 24));
    repaint();
  });
  canvas.addEventListener("pointercancel", () => { pointers.clear(), drawing = null, repaint(); });
  function ask({ x0, y0, x1, y1 }) {
    show("box", [ux(Math.min(x0, x1)), uy(Math.max(y0, y1)), ux(Math.max(x0, x1)), uy(Math.min(y0, y1))]);
  }
  function askAround(path) { // of equally long steps as many as the server takes
    const most = Number(told.corners), step = path.length / Math.min(most, path.length);
    const some = path.filter((_, n) => Math.floor(n / step) !== Math.floor((n - 1) / step)).slice(0, most);
    show("lasso", some.flatMap(([left, top]) => [ux(left), uy(top)]));
  }
  function show(name, ends) {
    const query = new URLSearchParams(told.query);
    query.set(name, ends.map((end) => end.toPrecision(6)).join(","));
    const kept = [view.x, view.y, view.unit].map((v) => v.toPrecision(6));
    location.assign(`/map?${query}#${kept}`);
  }
  canvas.addEventListener("wheel", (event) => { // the page scrolls unless the map was asked for
    if (!view || !(event.ctrlKey || event.metaKey || document.activeElement === canvas)) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...here(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!view || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60 / view.unit, way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (way) view.x += way[0] * step, view.y += way[1] * step, moved();
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") view = { ...home }, moved();
    else if (event.key === "Enter") near = null, name(pick(canvas.clientWidth / 2, canvas.clientHeight / 2, 1e4));
    else return;
    event.preventDefault(), event.stopPropagation();
  });
  map.addEventListener("click", (event) => {
    const what = event.target.closest("[data-do]")?.dataset.do;
    for (const tool of tools) {
      const on = tool.dataset.do === what && tool.getAttribute("aria-pressed") !== "true";
      if (what === "choose" || what === "around") tool.setAttribute("aria-pressed", String(on));
    }
    if (what === "in") zoom(1.6);
    if (what === "out") zoom(1 / 1.6);
    if (what === "all") view = { ...home }, moved();
  });
  map.addEventListener("change", ({ target }) => {
    const key = target.dataset.class !== undefined ? `c${target.dataset.class}` : `l${target.dataset.layer}`;
    hidden[target.checked ? "delete" : "add"](key), repaint();
  });
  still.addEventListener("change", () => { readColours(), repaint(); });
  new ResizeObserver(repaint).observe(canvas);

  async function load(address, real) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
    return unpack(await answer.arrayBuffer(), real);
  }
  async function run() {
    readColours();
    map.querySelector(".tools").hidden = false;
    const n = (count) => count.toLocaleString("en");
    status.textContent = "Loading the points";
    const head = await load(told.points, false);
    reset(head), draw();
    map.dataset.after = Math.round(performance.now()); // tests and benches wait for these
    map.dataset.drawn = head.n;
    status.textContent = head.n < head.whole ? `${n(head.n)} of ${n(head.whole)} images are drawn` : `${n(head.n)} images`;
    hint.hidden = !!near;
    if (!told.real) return;
    const reals = await load(told.real, true);
    document.getElementById("reals").textContent = n(reals.n);
    map.dataset.reals = reals.n;
    repaint();
  }
  run().catch((error) => { status.textContent = `The points did not come: ${error.message}`; });
}

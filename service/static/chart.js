// A training curve as SVG: the loss and the first dev score over the tokens that were read.

import { el, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 120;
const PAD = 8;

export function curveChart(points, name) {
  const metric = Object.keys(points[0].dev)[0];
  const losses = points.map((point) => point.loss);
  const scores = metric ? points.map((point) => point.dev[metric]) : [];
  const label = [
    `Training of ${name}: loss from ${losses[0].toFixed(2)} to ${losses.at(-1).toFixed(2)}`,
    metric && `dev ${metric} from ${scores[0].toFixed(3)} to ${scores.at(-1).toFixed(3)}`,
    `over ${points.at(-1).tokens.toLocaleString("en")} tokens`,
  ];
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label.filter(Boolean).join(", ") },
    svg("line", { class: "axis", x1: PAD, x2: WIDTH - PAD, y1: HEIGHT - PAD, y2: HEIGHT - PAD }),
    ...line(points, losses, "loss"),
    ...(metric ? line(points, scores, "score") : []),
  );
  const entry = (kind, text, values, digits) =>
    el("span", { class: `key ${kind}` }, `${text} ${values[0].toFixed(digits)} → ${values.at(-1).toFixed(digits)}`);
  return el(
    "figure",
    {},
    drawing,
    el("figcaption", { class: "small muted" }, entry("loss", "loss", losses, 2), metric ? entry("score", `dev ${metric}`, scores, 3) : null),
  );
}

function line(points, values, kind) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const last = points.at(-1).tokens || 1;
  const x = (point) => PAD + (point.tokens / last) * (WIDTH - 2 * PAD);
  const y = (value) => HEIGHT - 2 * PAD - ((value - low) / (high - low || 1)) * (HEIGHT - 4 * PAD);
  const places = points.map((point, i) => [x(point).toFixed(1), y(values[i]).toFixed(1)]);
  const dots = places.map(([cx, cy]) => svg("circle", { class: kind, cx, cy, r: 2.5 }));
  return [svg("polyline", { class: kind, points: places.map((place) => place.join(",")).join(" ") }), ...dots];
}

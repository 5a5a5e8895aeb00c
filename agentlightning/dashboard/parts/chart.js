// Curves, by uPlot: it draws on a canvas, so each chart says in words what it shows, and its numbers are in a table.

import uPlot from "../vendor/uplot.js";
import { theme } from "../theme.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { score } from "../words.js";

const HEIGHT = 240;
const COLOURS = ["--accent", "--busy", "--model", "--good", "--wait"];
// The interval in which the mean lies 19 times out of 20, for a sum of many.
const NORMAL_95 = 1.96;

/** @typedef {{at: number, count: number, mean: number, deviation: number}} Point */
/** @typedef {{name: string, points: Point[]}} Series */

/** Half the width of the mean's 95 % interval. @param {{count: number, deviation: number}} point */
export function interval({ count, deviation }) {
  return count > 1 ? (NORMAL_95 * deviation) / Math.sqrt(count) : 0;
}

/** Two scores as one. @param {Array<{count: number, mean: number, deviation: number}>} scores */
export function together(scores) {
  const count = scores.reduce((sum, one) => sum + one.count, 0);
  const mean = scores.reduce((sum, one) => sum + one.count * one.mean, 0) / count;
  const squares = scores.reduce(
    (sum, one) => sum + Math.max(0, one.count - 1) * one.deviation ** 2 + one.count * (one.mean - mean) ** 2,
    0,
  );
  return { count, mean, deviation: count > 1 ? Math.sqrt(squares / (count - 1)) : 0 };
}

/**
 * @param {{
 *   label: string, series: Series[], xName: string, line?: boolean, tickName?: (at: number) => string,
 *   onPick?: (at: number) => void
 * }} props `line`: points are joined; else each stands alone with its interval
 */
export function Chart({ label, series, xName, line = true, tickName, onPick }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [dark, setDark] = useState(0);
  const shape = JSON.stringify([series.map(({ name }) => name), line, theme.value, dark]);

  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setDark((n) => n + 1);
    query.addEventListener("change", redraw);
    return () => query.removeEventListener("change", redraw);
  }, []);
  useEffect(() => {
    const element = /** @type {HTMLElement} */ (place.current);
    const options = optionsFor(element, series, { xName, line, tickName, onPick });
    plot.current = new uPlot(options, dataOf(series), element);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(dataOf(series)), [series]);
  return html`<div class="chart" ref=${place} role="img" aria-label=${said(label, series)}></div>`;
}

/** @param {string} label @param {Series[]} series */
function said(label, series) {
  const ends = series
    .filter(({ points }) => points.length > 0)
    .map(({ name, points }) => `${name} from ${score(points[0].mean)} to ${score(points[points.length - 1].mean)}`);
  return `${label}: ${ends.join("; ") || "nothing yet"}`;
}

/** Columns for uPlot: the places, then mean, low and high of each series. @param {Series[]} series */
function dataOf(series) {
  const places = [...new Set(series.flatMap(({ points }) => points.map(({ at }) => at)))].sort((a, b) => a - b);
  const columns = series.flatMap(({ points }) => {
    const by = new Map(points.map((point) => [point.at, point]));
    const column = (/** @type {(point: Point) => number} */ read) =>
      places.map((at) => {
        const point = by.get(at);
        return point ? read(point) : null;
      });
    return [
      column(({ mean }) => mean),
      column((point) => point.mean - interval(point)),
      column((point) => point.mean + interval(point)),
    ];
  });
  return [places, ...columns];
}

/** @param {HTMLElement} element @param {Series[]} series @param {any} how */
function optionsFor(element, series, { xName, line, tickName, onPick }) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => resolved(element, `var(${name})`);
  const text = colour("--dim");
  const grid = { stroke: colour("--line"), width: 1 };
  const font = `12px ${style.fontFamily}`;
  const value = (/** @type {any} */ _, /** @type {number | null} */ number) => (number === null ? "–" : score(number));
  const hooks = line ? {} : { draw: [(/** @type {any} */ chart) => drawIntervals(chart, series.length, colour)] };
  if (onPick) {
    Object.assign(hooks, {
      ready: [
        (/** @type {any} */ chart) =>
          chart.over.addEventListener("click", () => {
            if (chart.cursor.idx !== null && chart.cursor.idx !== undefined) onPick(chart.data[0][chart.cursor.idx]);
          }),
      ],
    });
  }
  return {
    width: element.clientWidth || 400,
    height: HEIGHT,
    scales: { x: { time: false, range: line ? undefined : padded }, y: { range: yRange } },
    legend: { live: true },
    hooks,
    axes: [
      { stroke: text, grid, ticks: grid, font, label: xName, labelSize: 18, labelFont: font, ...ticks(line, tickName) },
      {
        stroke: text,
        grid,
        ticks: grid,
        font,
        size: 52,
        values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map(score),
      },
    ],
    bands: line ? series.map((_, n) => ({ series: [3 * n + 3, 3 * n + 2], fill: faded(colour(COLOURS[n % 5])) })) : [],
    series: [
      {
        label: xName,
        value: (/** @type {any} */ _, /** @type {number | null} */ at) =>
          at === null ? "–" : tickName ? tickName(at) : String(at),
      },
      ...series.flatMap(({ name }, n) => {
        const stroke = colour(COLOURS[n % 5]);
        const edge = { stroke: "transparent", points: { show: false }, value };
        return [
          {
            label: name,
            stroke,
            width: line ? 2 : 0,
            spanGaps: true,
            value,
            points: { show: !line, size: 8, fill: stroke },
          },
          { label: `${name} low`, ...edge },
          { label: `${name} high`, ...edge },
        ];
      }),
    ],
  };
}

/** Whole places only where each is a thing of its own. @param {boolean} line @param {((at: number) => string) | undefined} tickName */
function ticks(line, tickName) {
  if (line || !tickName) return {};
  return {
    incrs: [1, 2, 5, 10, 20, 50, 100],
    values: (/** @type {any} */ _, /** @type {number[]} */ at) =>
      at.map((one) => (Number.isInteger(one) ? tickName(one) : "")),
  };
}

/** @param {any} _ @param {number} low @param {number} high */
function padded(_, low, high) {
  return [low - 0.5, high + 0.5];
}

/** @param {any} _ @param {number | null} low @param {number | null} high @returns {[number, number]} */
function yRange(_, low, high) {
  if (low === null || high === null) return [0, 1];
  const from = Math.min(0, low);
  const to = Math.max(low >= 0 && high <= 1 ? 1 : high, from + 0.01);
  return [from, to + (to - from) * 0.05];
}

/** @param {any} chart @param {number} many @param {(name: string) => string} colour */
function drawIntervals(chart, many, colour) {
  const { ctx } = chart;
  ctx.save();
  ctx.lineWidth = 2 * devicePixelRatio;
  for (let n = 0; n < many; n++) {
    ctx.strokeStyle = colour(COLOURS[n % 5]);
    const [lows, highs] = [chart.data[3 * n + 2], chart.data[3 * n + 3]];
    chart.data[0].forEach((/** @type {number} */ at, /** @type {number} */ index) => {
      if (lows[index] === null || lows[index] === undefined) return;
      const x = chart.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, chart.valToPos(lows[index], "y", true));
      ctx.lineTo(x, chart.valToPos(highs[index], "y", true));
      ctx.stroke();
    });
  }
  ctx.restore();
}

/** A colour of the style sheet as a canvas understands it. @param {HTMLElement} element @param {string} colour */
function resolved(element, colour) {
  const probe = document.createElement("span");
  probe.style.color = colour;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** @param {string} colour */
function faded(colour) {
  return colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.16)");
}

// Curves, by uPlot: it draws on a canvas, so each chart says in words what it shows, and what is pointed at.

import uPlot from "../vendor/uplot.js";
import { theme } from "../theme.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { count, plural, score } from "../words.js";

const HEIGHT = 240;
const COLOURS = ["--accent", "--busy", "--model", "--good", "--wait"];
// Student's t: what the standard error is multiplied by, so that the mean lies within 19 times out of 20. Few rewards
// say less of their mean than many, and the first few degrees of freedom are beyond the formula.
const NORMAL_95 = 1.96;
const T_95_OF_FEW = [NaN, 12.71, 4.3, 3.18, 2.78, 2.57];

/** @typedef {{at: number, count: number, mean: number, deviation: number}} Point */
/** @typedef {{name: string, colour?: number, points: Point[]}} Series */

/** Half the width of the mean's 95 % interval. @param {{count: number, deviation: number}} point */
export function interval({ count, deviation }) {
  return count > 1 ? (t95(count - 1) * deviation) / Math.sqrt(count) : 0;
}

/** @param {number} freedom */
function t95(freedom) {
  const z = NORMAL_95;
  return (
    T_95_OF_FEW[freedom] ?? z + (z ** 3 + z) / (4 * freedom) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * freedom ** 2)
  );
}

/** `0.5 ± 0.1`. @param {{count: number, mean: number, deviation: number}} point */
export function meanOf(point) {
  return point.count > 1 ? `${score(point.mean)} ± ${score(interval(point))}` : score(point.mean);
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
 *   placeName: (at: number) => string, hint: string, onPick?: (at: number) => void
 * }} props `line`: points are joined; else each stands alone with its interval. `placeName` says where one points,
 *   `hint` stands there while one does not
 */
export function Chart({ label, series, xName, line = true, tickName, placeName, hint, onPick }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [dark, setDark] = useState(0);
  const [pointed, setPointed] = useState(/** @type {number | null} */ (null));
  const shape = JSON.stringify([series.map(({ name }) => name), line, theme.value, dark]);
  const pick = () => void (pointed !== null && onPick?.(pointed));
  const latest = useRef({ pick });
  latest.current = { pick };

  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setDark((n) => n + 1);
    query.addEventListener("change", redraw);
    return () => query.removeEventListener("change", redraw);
  }, []);
  useEffect(() => {
    const element = /** @type {HTMLElement} */ (place.current);
    const options = optionsFor(element, series, { xName, line, tickName, onPoint: setPointed });
    plot.current = new uPlot(options, dataOf(series), element);
    plot.current.over.addEventListener("click", () => latest.current.pick());
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(dataOf(series)), [series]);
  return html`<div class="chart ${onPick ? "picks" : ""}" ref=${place} role="img" aria-label=${said(label, series)}></div>
    <p class="readout dim">${pointed === null ? hint : html`<${Readout} ...${{ series, placeName }} at=${pointed} />`}</p>`;
}

/** What is pointed at, in numbers. @param {{series: Series[], at: number, placeName: (at: number) => string}} props */
function Readout({ series, at, placeName }) {
  return html`${placeName(at)}
  ${series.map(({ name, colour, points }, n) => {
    const point = points.find((one) => one.at === at);
    if (!point) return null;
    return html`<span class="reading">
      ${series.length > 1 && html`<span class="swatch colour-${colour ?? n}" aria-hidden="true"></span> ${name}`} <strong class="number">${meanOf(point)}</strong>
      ${" "}of ${plural(point.count, "reward")}
    </span>`;
  })}`;
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
function optionsFor(element, series, { xName, line, tickName, onPoint }) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => resolved(element, `var(${name})`);
  const text = colour("--dim");
  const grid = { stroke: colour("--line"), width: 1 };
  const font = `12px ${style.fontFamily}`;
  const colours = series.map((one, n) => colour(COLOURS[(one.colour ?? n) % COLOURS.length]));
  const hooks = {
    setCursor: [
      // When its data change, the chart forgets where the pointer is until that moves again.
      (/** @type {any} */ { cursor, data }) => {
        if (cursor.left < 0) onPoint(null);
        else if (typeof cursor.idx === "number") onPoint(data[0][cursor.idx]);
      },
    ],
    draw: line ? [] : [(/** @type {any} */ chart) => drawIntervals(chart, colours)],
  };
  return {
    width: element.clientWidth || 400,
    height: HEIGHT,
    scales: { x: { time: false, range: line ? undefined : padded }, y: { range: yRange } },
    legend: { show: false },
    cursor: { drag: { setScale: false, x: false, y: false } },
    hooks,
    axes: [
      {
        stroke: text,
        grid,
        ticks: grid,
        font,
        size: 30,
        label: xName,
        labelSize: 20,
        labelFont: font,
        ...ticks(tickName),
      },
      {
        stroke: text,
        grid,
        ticks: grid,
        font,
        size: 52,
        values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map(score),
      },
    ],
    bands: line ? series.map((_, n) => ({ series: [3 * n + 3, 3 * n + 2], fill: faded(colours[n]) })) : [],
    series: [
      {},
      ...colours.flatMap((stroke) => {
        const edge = { stroke: "transparent", points: { show: false } };
        const points = { size: line ? 6 : 8, fill: stroke, ...(line ? {} : { show: true }) };
        return [{ stroke, width: line ? 2 : 0, spanGaps: true, points }, edge, edge];
      }),
    ],
  };
}

/** Whole places only: there is no half rollout, and no half version. @param {((at: number) => string) | undefined} tickName */
function ticks(tickName = count) {
  return {
    incrs: [1, 2, 5]
      .flatMap((step) => Array.from({ length: 8 }, (_, zeros) => step * 10 ** zeros))
      .sort((a, b) => a - b),
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

/** @param {any} chart @param {string[]} colours */
function drawIntervals(chart, colours) {
  const { ctx } = chart;
  ctx.save();
  ctx.lineWidth = 2 * devicePixelRatio;
  colours.forEach((colour, n) => {
    ctx.strokeStyle = colour;
    const [lows, highs] = [chart.data[3 * n + 2], chart.data[3 * n + 3]];
    chart.data[0].forEach((/** @type {number} */ at, /** @type {number} */ index) => {
      if (lows[index] === null || lows[index] === undefined) return;
      const x = chart.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, chart.valToPos(lows[index], "y", true));
      ctx.lineTo(x, chart.valToPos(highs[index], "y", true));
      ctx.stroke();
    });
  });
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

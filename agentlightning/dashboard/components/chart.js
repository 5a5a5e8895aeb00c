// Line and interval charts with uPlot. uPlot draws on a canvas, which screen readers cannot read. Each chart therefore
// also has a summary and a readout as text.

import uPlot from "../vendor/uplot.js";
import { theme } from "../theme.js";
import { html, useEffect, useRef, useState } from "../ui.js";
import { count, plural, score } from "../format.js";

const HEIGHT = 240;
const COLOURS = ["--accent", "--busy", "--model", "--good", "--queued"];
const NORMAL_95 = 1.96;
// The two-sided 95 % quantile of Student's t distribution for up to five degrees of freedom, for which the series
// expansion is too inaccurate.
const T_95_SMALL = [NaN, 12.71, 4.3, 3.18, 2.78, 2.57];

/** @typedef {{at: number, count: number, mean: number, deviation: number}} Point */
/** @typedef {{name: string, colour?: number, points: Point[]}} Series */

/** Half the width of the 95 % confidence interval for the mean. @param {{count: number, deviation: number}} point */
export function ciHalfWidth({ count, deviation }) {
  return count > 1 ? (t95(count - 1) * deviation) / Math.sqrt(count) : 0;
}

/** The two-sided 95 % quantile of Student's t distribution. @param {number} freedom degrees of freedom */
function t95(freedom) {
  const z = NORMAL_95;
  return (
    T_95_SMALL[freedom] ?? z + (z ** 3 + z) / (4 * freedom) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * freedom ** 2)
  );
}

/**
 * Format a mean with its confidence interval: `0.5 ± 0.1`.
 * @param {{count: number, mean: number, deviation: number}} point
 */
function formatMean(point) {
  return point.count > 1 ? `${score(point.mean)} ± ${score(ciHalfWidth(point))}` : score(point.mean);
}

/**
 * Combine the scores of several groups of rewards into one score for all rewards.
 * @param {Array<{count: number, mean: number, deviation: number}>} scores
 */
export function poolScores(scores) {
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
 *   positionName: (at: number) => string, hint: string, onPick?: (at: number) => void
 * }} props `line`: connect the points and draw the confidence intervals as a band, instead of one bar for each point;
 *   `positionName`: returns the text for a position in the readout; `hint`: shown while the pointer is not on the chart
 */
export function Chart({ label, series, xName, line = true, tickName, positionName, hint, onPick }) {
  const container = useRef(/** @type {HTMLElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const [systemThemeChanges, setSystemThemeChanges] = useState(0);
  const [hovered, setHovered] = useState(/** @type {number | null} */ (null));
  const shape = JSON.stringify([series.map(({ name }) => name), line, theme.value, systemThemeChanges]);
  const pick = () => void (hovered !== null && onPick?.(hovered));
  const latest = useRef({ pick });
  latest.current = { pick };

  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => setSystemThemeChanges((n) => n + 1);
    query.addEventListener("change", redraw);
    return () => query.removeEventListener("change", redraw);
  }, []);
  useEffect(() => {
    const element = /** @type {HTMLElement} */ (container.current);
    const options = chartOptions(element, series, { xName, line, tickName, onHover: setHovered });
    plot.current = new uPlot(options, chartData(series), element);
    plot.current.over.addEventListener("click", () => latest.current.pick());
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(chartData(series)), [series]);
  return html`<div class="chart ${onPick ? "clickable" : ""}" ref=${container} role="img" aria-label=${summarize(label, series)}></div>
    <p class="readout dim">${hovered === null ? hint : html`<${Readout} ...${{ series, positionName }} at=${hovered} />`}</p>`;
}

/**
 * The values at the pointer's position.
 * @param {{series: Series[], at: number, positionName: (at: number) => string}} props
 */
function Readout({ series, at, positionName }) {
  return html`${positionName(at)}
  ${series.map(({ name, colour, points }, n) => {
    const point = points.find((one) => one.at === at);
    if (!point) return null;
    return html`<span class="reading">
      ${series.length > 1 && html`<span class="swatch colour-${colour ?? n}" aria-hidden="true"></span> ${name}`} <strong class="number">${formatMean(point)}</strong>
      ${" "}(${plural(point.count, "reward")})
    </span>`;
  })}`;
}

/** The chart as text, for screen readers. @param {string} label @param {Series[]} series */
function summarize(label, series) {
  const ranges = series
    .filter(({ points }) => points.length > 0)
    .map(({ name, points }) => `${name} from ${score(points[0].mean)} to ${score(points[points.length - 1].mean)}`);
  return `${label}: ${ranges.join("; ") || "no data"}`;
}

/**
 * Data columns for uPlot: the positions, then the mean, low and high values of each series.
 * @param {Series[]} series
 */
function chartData(series) {
  const positions = [...new Set(series.flatMap(({ points }) => points.map(({ at }) => at)))].sort((a, b) => a - b);
  const columns = series.flatMap(({ points }) => {
    const byPosition = new Map(points.map((point) => [point.at, point]));
    const column = (/** @type {(point: Point) => number} */ read) =>
      positions.map((at) => {
        const point = byPosition.get(at);
        return point ? read(point) : null;
      });
    return [
      column(({ mean }) => mean),
      column((point) => point.mean - ciHalfWidth(point)),
      column((point) => point.mean + ciHalfWidth(point)),
    ];
  });
  return [positions, ...columns];
}

/** @param {HTMLElement} element @param {Series[]} series @param {any} props */
function chartOptions(element, series, { xName, line, tickName, onHover }) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => resolveColour(element, `var(${name})`);
  const text = colour("--dim");
  const grid = { stroke: colour("--line"), width: 1 };
  const font = `12px ${style.fontFamily}`;
  const colours = series.map((one, n) => colour(COLOURS[(one.colour ?? n) % COLOURS.length]));
  const hooks = {
    setCursor: [
      // After its data has changed, uPlot does not report a position until the pointer moves again.
      (/** @type {any} */ { cursor, data }) => {
        if (cursor.left < 0) onHover(null);
        else if (typeof cursor.idx === "number") onHover(data[0][cursor.idx]);
      },
    ],
    draw: line ? [] : [(/** @type {any} */ chart) => drawIntervals(chart, colours)],
  };
  return {
    width: element.clientWidth || 400,
    height: HEIGHT,
    scales: { x: { time: false, range: line ? undefined : padRange }, y: { range: yRange } },
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
        ...integerTicks(tickName),
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
    bands: line ? series.map((_, n) => ({ series: [3 * n + 3, 3 * n + 2], fill: translucent(colours[n]) })) : [],
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

/**
 * Place ticks at integers only, because positions are numbers of rollouts or versions.
 * @param {((at: number) => string) | undefined} tickName
 */
function integerTicks(tickName = count) {
  return {
    incrs: [1, 2, 5]
      .flatMap((step) => Array.from({ length: 8 }, (_, zeros) => step * 10 ** zeros))
      .sort((a, b) => a - b),
    values: (/** @type {any} */ _, /** @type {number[]} */ at) =>
      at.map((one) => (Number.isInteger(one) ? tickName(one) : "")),
  };
}

/** @param {any} _ @param {number} low @param {number} high */
function padRange(_, low, high) {
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

/**
 * Convert a CSS colour, such as a variable, to a form that a canvas accepts.
 * @param {HTMLElement} element
 * @param {string} colour
 */
function resolveColour(element, colour) {
  const probe = document.createElement("span");
  probe.style.color = colour;
  element.append(probe);
  const computed = getComputedStyle(probe).color;
  probe.remove();
  return computed;
}

/** @param {string} colour */
function translucent(colour) {
  return colour.replace(/^rgb\((.*)\)$/, "rgba($1, 0.16)");
}

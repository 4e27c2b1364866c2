// The charts: each function takes a part of the story and the colours of the page, and returns what
// plotly.js draws.
//
// plotly.js reads a few HTML tags in its texts, and formulas between dollars, so every text of the
// run goes through plain().
"use strict";

const SERIES = 8;
const NAMED_COLOURS = [
  "paper",
  "card",
  "ink",
  "muted",
  "rule",
  "grid",
  "accent",
  "pool",
  "positive",
  "negative",
];

function plain(text) {
  return String(text)
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/\$/g, "&#36;");
}

function words(name) {
  return plain(name).replace(/[_/]/g, " ");
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const colour = {};
  for (const name of NAMED_COLOURS) colour[name] = read(name);
  colour.series = Array.from({ length: SERIES }, (_, place) => read(`series-${place}`));

  // For what must not look like a positive.
  colour.others = colour.series.filter((tint) => tint !== colour.positive);
  return colour;
}

function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en-US");

  const size = Math.abs(value);
  if (size < 1000) return String(Number(value.toPrecision(4)));
  if (size < 1e7) return Math.round(value).toLocaleString("en-US");
  return value.toPrecision(3);
}

const LEGEND = {
  orientation: "h",
  y: 1.02,
  yanchor: "bottom",
  x: 0,
  xanchor: "left",
  font: { size: 12 },
};

function layoutOf(colour, more) {
  const axis = {
    gridcolor: colour.grid,
    linecolor: colour.rule,
    zerolinecolor: colour.rule,
    tickcolor: colour.rule,
    automargin: true,
    exponentformat: "none",
    separatethousands: true,
    fixedrange: true,
    title: { standoff: 8 },
  };
  const axisOf = (own) => ({ ...axis, ...own, title: { ...axis.title, ...(own && own.title) } });
  const { xaxis, yaxis, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour.ink, size: 13, family: "inherit" },
    margin: { l: 8, r: 22, t: 12, b: 8 },
    dragmode: false,
    hovermode: "closest",
    showlegend: true,
    legend: LEGEND,
    hoverlabel: { bgcolor: colour.card, bordercolor: colour.rule, font: { color: colour.ink } },
    xaxis: axisOf(xaxis),
    yaxis: axisOf(yaxis),
    ...rest,
  };
}

function shortName(name) {
  return name.length > 26 ? `…${name.slice(-25)}` : name;
}

// Means by round with their intervals as bars: round 0 is the baseline.
function roundsWithIntervals(entries, { name, unit, scale }, colour) {
  const known = entries.filter((entry) => entry.mean !== null);
  const reach = (entry, end) =>
    entry[end] === null ? 0 : scale * Math.abs(entry[end] - entry.mean);
  const data = [
    {
      type: "scatter",
      mode: "lines+markers",
      name: plain(name),
      x: known.map((entry) => entry.round),
      y: known.map((entry) => scale * entry.mean),
      error_y: {
        type: "data",
        symmetric: false,
        color: colour.ink,
        thickness: 1.5,
        width: 6,
        array: known.map((entry) => reach(entry, "high")),
        arrayminus: known.map((entry) => reach(entry, "low")),
      },
      line: { color: colour.series[0], width: 2 },
      marker: {
        color: colour.series[0],
        size: 9,
        symbol: known.map((entry) => (entry.round ? "circle" : "square-open")),
      },
      hovertemplate: `round %{x}: %{y:.4g}${unit}<extra></extra>`,
    },
  ];
  const rounds = known.map((entry) => entry.round);
  const layout = layoutOf(colour, {
    showlegend: false,
    xaxis: {
      title: { text: "round" },
      range: [Math.min(...rounds) - 0.3, Math.max(...rounds) + 0.3],
      tickvals: rounds,
      ticktext: rounds.map((number) => (number ? String(number) : "baseline")),
      zeroline: false,
    },
    yaxis: { ticksuffix: unit, zeroline: false },
  });
  return { data, layout };
}

const CHARTS = {
  // How many responses went on at each command, and why the others did not.
  funnel(allSteps, colour) {
    const steps = allSteps.filter((step) => !step.error);
    const labels = steps.map((step, place) => `${place + 1}. ${plain(step.step)}`);
    const artifacts = steps.map((step) => plain(step.artifact));

    // The most frequent reasons have a colour of their own.
    const totals = new Map();
    for (const step of steps) {
      for (const [name, n] of Object.entries(step.reasons)) {
        totals.set(name, (totals.get(name) || 0) + n);
      }
    }
    const reasons = [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a));
    const shown = reasons.slice(0, SERIES - 1);

    const bar = (name, values, tint) => ({
      type: "bar",
      orientation: "h",
      name,
      y: labels,
      x: values,
      customdata: artifacts,
      marker: { color: tint, line: { color: colour.paper, width: 1 } },
      hovertemplate: "%{y}, %{customdata}<br>%{x:,} %{fullData.name}<extra></extra>",
    });
    const data = [
      bar(
        "went on",
        steps.map((step) => step.n_out),
        colour.positive,
      ),
    ];
    shown.forEach((name, place) => {
      const tint =
        name === "not_selected" ? colour.pool : colour.others[place % colour.others.length];
      data.push(
        bar(
          words(name),
          steps.map((step) => step.reasons[name] || 0),
          tint,
        ),
      );
    });
    if (reasons.length > shown.length) {
      const others = reasons.filter((name) => !shown.includes(name));
      const countOthers = (step) =>
        others.reduce((sum, name) => sum + (step.reasons[name] || 0), 0);
      data.push(bar("other reasons", steps.map(countOthers), colour.muted));
    }

    const layout = layoutOf(colour, {
      barmode: "stack",
      bargap: 0.3,
      legend: { ...LEGEND, traceorder: "normal" },
      xaxis: { title: { text: "responses" } },
      yaxis: { autorange: "reversed" },
    });
    return { data, layout };
  },

  // The distribution of rewards: all candidates as bars, those that were kept as lines.
  rewards(part, colour) {
    const { edges } = part.histogram;
    const middles = edges.slice(1).map((edge, place) => (edge + edges[place]) / 2);
    const widths = edges.slice(1).map((edge, place) => edge - edges[place]);
    const shares = (key) => {
      const total = part.histogram[key].reduce((sum, n) => sum + n, 0);
      return { total, values: part.histogram[key].map((n) => (100 * n) / Math.max(total, 1)) };
    };
    const hover =
      "reward %{x:.4g}<br>%{customdata:,} responses, %{y:.1f}%<extra>%{fullData.name}</extra>";

    const pool = shares("pool");
    const data = [
      {
        type: "bar",
        name: `pool (${figure(pool.total)})`,
        x: middles,
        width: widths,
        y: pool.values,
        customdata: part.histogram.pool,
        marker: { color: colour.pool },
        opacity: 0.5,
        hovertemplate: hover,
      },
    ];
    for (const [key, name] of [
      ["negative", "negatives"],
      ["positive", "positives"],
    ]) {
      const kept = shares(key);
      if (!kept.total) continue;
      data.push({
        type: "scatter",
        mode: "lines",
        name: `${name} (${figure(kept.total)})`,
        x: middles,
        y: kept.values,
        customdata: part.histogram[key],
        line: { color: colour[key], width: 2.5, shape: "hvh" },
        hovertemplate: hover,
      });
    }

    const layout = layoutOf(colour, {
      bargap: 0,
      xaxis: { title: { text: "reward" } },
      yaxis: { title: { text: "share of its own" }, ticksuffix: "%", rangemode: "tozero" },
    });
    return { data, layout };
  },

  // Reward against length: a cloud a role, and the mean reward of all candidates by length.
  lengths(part, colour) {
    const { points, trend, unit } = part.lengths;
    const hover = `%{x:,} ${unit}<br>reward %{y:.4g}<extra></extra>`;
    const data = [];
    const addCloud = (key, name, tint, symbol, size) => {
      const { length, reward, n } = points[key];
      if (!length.length) return;
      data.push({
        type: "scatter",
        mode: "markers",
        name: `${name} (${figure(length.length)} of ${figure(n)})`,
        x: length,
        y: reward,
        hovertemplate: hover,
        marker: { color: tint, symbol, size, opacity: 0.5 },
      });
    };
    addCloud("none", "not kept", colour.pool, "circle", 4);
    addCloud("negative", "negatives", colour.negative, "diamond", 5);
    addCloud("positive", "positives", colour.positive, "star", 7);

    data.push({
      type: "scatter",
      mode: "lines+markers",
      name: "mean of all",
      x: trend.map((bin) => bin.length),
      y: trend.map((bin) => bin.reward),
      line: { color: colour.ink, width: 2 },
      marker: { color: colour.ink, size: 5 },
      hovertemplate: hover,
    });
    const layout = layoutOf(colour, {
      xaxis: { title: { text: `${unit} a response` } },
      yaxis: { title: { text: "reward" } },
    });
    return { data, layout };
  },

  // What each strategy covers with k negatives, and the k that was chosen.
  coverage(pool, colour) {
    const { strategies, k: ks } = pool.coverage;
    const symbols = ["circle", "square", "diamond", "star"];
    const data = Object.entries(strategies).map(([name, costs], place) => {
      const isRandom = name === "random";
      const tint = isRandom ? colour.pool : colour.series[place - 1];
      return {
        type: "scatter",
        mode: "lines+markers",
        name: isRandom ? "random (expected)" : name,
        x: ks,
        y: costs,
        line: { color: tint, width: 2, dash: isRandom ? "dot" : "solid" },
        marker: { symbol: symbols[place % symbols.length], size: 7 },
        hovertemplate: "k = %{x}, cost %{y:.3f}<extra>%{fullData.name}</extra>",
      };
    });

    const k = pool.chosen && pool.chosen.k;
    const shapes = [];
    const annotations = [];
    if (k) {
      shapes.push({
        type: "line",
        x0: k,
        x1: k,
        yref: "paper",
        y0: 0,
        y1: 1,
        line: { color: colour.muted, dash: "dash", width: 1 },
      });
      annotations.push({
        x: k,
        y: 1,
        yref: "paper",
        text: "chosen",
        showarrow: false,
        xanchor: "left",
        xshift: 4,
        font: { color: colour.muted },
      });
    }
    const layout = layoutOf(colour, {
      shapes,
      annotations,
      xaxis: { title: { text: "k, negatives chosen" }, dtick: 1 },
      yaxis: { title: { text: "coverage cost" }, rangemode: "tozero" },
    });
    return { data, layout };
  },

  // Measures of a training by step; held-out prompts are dotted, in the colour of the trained ones.
  curves(curves, colour) {
    const names = [...new Set(curves.map((curve) => curve.name))];
    const isTrained = (name) =>
      curves.some((curve) => curve.name === name && curve.split !== "eval");

    const data = curves.map((curve) => {
      const isHeldOut = curve.split === "eval";
      const label = plain(curve.name.split("/").pop().replace(/_/g, " "));
      return {
        // Two entries of each in the legend would bury the chart.
        legendgroup: curve.name,
        showlegend: !isHeldOut || !isTrained(curve.name),
        type: "scatter",
        mode: isHeldOut || curve.steps.length < 3 ? "lines+markers" : "lines",
        name: isHeldOut ? `${label}, held out` : label,
        x: curve.steps,
        y: curve.values,
        hovertemplate: "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
        line: {
          color: colour.series[names.indexOf(curve.name) % SERIES],
          width: 2,
          dash: isHeldOut ? "dot" : "solid",
        },
        marker: { size: 6, symbol: isHeldOut ? "diamond" : "circle" },
      };
    });
    const layout = layoutOf(colour, {
      showlegend: data.length > 1,
      xaxis: { title: { text: "step" } },
    });
    return { data, layout };
  },

  // Win rates with their intervals, raw above length-controlled.
  winRates(allEntries, colour) {
    const entries = allEntries.filter((entry) => !entry.error);
    const markers = (key, name, tint, symbol, shift) => {
      const known = [];
      entries.forEach((entry, place) => {
        const rate = entry[key];
        if (rate && rate.mean !== null)
          known.push({ place: place + shift, rate, name: plain(entry.name) });
      });
      return {
        type: "scatter",
        mode: "markers",
        name,
        y: known.map((each) => each.place),
        customdata: known.map((each) => each.name),
        x: known.map(({ rate }) => 100 * rate.mean),
        error_x: {
          type: "data",
          symmetric: false,
          color: tint,
          thickness: 2,
          width: 5,
          array: known.map(({ rate }) => (rate.high === null ? 0 : 100 * (rate.high - rate.mean))),
          arrayminus: known.map(({ rate }) =>
            rate.low === null ? 0 : 100 * (rate.mean - rate.low),
          ),
        },
        marker: { color: tint, size: 11, symbol },
        hovertemplate: `%{customdata}<br>${name} %{x:.1f}%<extra></extra>`,
      };
    };
    const data = [
      markers("win_rate", "raw", colour.series[0], "circle", -0.12),
      markers("length_controlled", "length-controlled", colour.series[1], "diamond", 0.12),
    ];

    const layout = layoutOf(colour, {
      xaxis: { title: { text: "win rate" }, ticksuffix: "%", range: [0, 100] },
      // By place, for names may be long, and end alike.
      yaxis: {
        range: [entries.length - 0.5, -0.5],
        tickvals: entries.map((_, place) => place),
        ticktext: entries.map((entry) => plain(shortName(entry.name))),
        zeroline: false,
      },
      shapes: [
        {
          type: "line",
          x0: 50,
          x1: 50,
          yref: "paper",
          y0: 0,
          y1: 1,
          line: { color: colour.muted, dash: "dash", width: 1 },
        },
      ],
    });
    return { data, layout };
  },

  // A measure of the held-out prompts, round by round.
  byRound(measure, colour) {
    const isShare = measure.form.includes("%");
    const figures = { name: measure.label, unit: isShare ? "%" : "", scale: isShare ? 100 : 1 };
    return roundsWithIntervals(measure.rounds, figures, colour);
  },

  // The rewards of what was sampled for training, round by round.
  poolsByRound(pools, colour) {
    return roundsWithIntervals(pools, { name: "mean reward", unit: "", scale: 1 }, colour);
  },

  // Predicted against observed shares; a point is as large as the pairs in its bin.
  reliability(part, colour) {
    const data = [
      {
        type: "scatter",
        mode: "lines",
        name: "as sure as right",
        x: [0, 1],
        y: [0, 1],
        hoverinfo: "skip",
        line: { color: colour.pool, dash: "dash", width: 1 },
      },
    ];
    const symbols = { width: "circle", mass: "square" };
    Object.entries(part.reliability).forEach(([kind, curve], place) => {
      const largest = Math.max(...curve.n, 1);
      data.push({
        type: "scatter",
        mode: "lines+markers",
        name: `bins of equal ${plain(kind)}`,
        x: curve.predicted,
        y: curve.observed,
        customdata: curve.n,
        line: { color: colour.series[place], width: 2 },
        visible: place ? "legendonly" : true,
        marker: {
          symbol: symbols[kind] || "circle",
          size: curve.n.map((n) => 6 + 14 * Math.sqrt(n / largest)),
          opacity: 0.85,
        },
        hovertemplate:
          "predicted %{x:.3f}, observed %{y:.3f}<br>" +
          "%{customdata:,.1f} pairs<extra>%{fullData.name}</extra>",
      });
    });

    const layout = layoutOf(colour, {
      xaxis: { title: { text: "predicted probability" }, range: [-0.02, 1.02] },
      yaxis: { title: { text: "share that won" }, range: [-0.04, 1.04] },
    });
    return { data, layout };
  },
};

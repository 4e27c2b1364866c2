// The charts of a study. Names of arms may be long and many, so they are measured: a row has its
// name above its interval, cut in the middle where the chart is narrower, and labels of points are
// put where they cover neither a point nor each other.

const LABEL_SIZE = 12;
const POINT_SIZE = 8;
const MARGIN = 14;
const ROOM = { l: 58, r: 16, t: 14, b: 50 };
const BUDGET_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "star", "x"];
const RINGS = [4, 14, 26, 40, 58, 80, 106];
const DIRECTIONS = 16;

const measured = document.createElement("canvas").getContext("2d");

// plotly.js measures a label before it is on the page, where there is no font to inherit.
function pageFont() {
  return getComputedStyle(document.body).fontFamily;
}

function widthOf(text) {
  measured.font = `${LABEL_SIZE}px ${pageFont()}`;
  return measured.measureText(text).width;
}

function studyLayout(colour, size, more) {
  const font = { color: colour.ink, size: 13, family: pageFont() };
  return layoutOf(colour, { width: size.width, height: size.height, font, showlegend: false, ...more });
}

// Both ends of a name tell arms apart: what has to go goes from its middle.
function cutTo(name, width) {
  if (widthOf(name) <= width) return name;
  for (let n = name.length - 1; n > 1; n -= 1) {
    const head = Math.ceil(n / 2);
    const short = `${name.slice(0, head)}…${name.slice(name.length - (n - head))}`;
    if (widthOf(short) <= width) return short;
  }
  return "…";
}

function contrastLabel(row, width) {
  const mark = row.is_clear ? " *" : row.is_declared ? "" : " †";
  const whole = `${row.first} − ${row.second}${mark}`;
  if (widthOf(whole) <= width) return whole;

  // A short name leaves its room to the long one.
  const room = width - widthOf(` − ${mark}`) - 4;
  const [first, second] = [widthOf(row.first), widthOf(row.second)];
  const half = room / 2;
  const ofFirst = Math.max(half, room - second);
  const ofSecond = Math.max(half, room - first);
  return `${cutTo(row.first, ofFirst)} − ${cutTo(row.second, ofSecond)}${mark}`;
}

function reachOf(row, end) {
  return row[end] === null ? 0 : Math.abs(row[end] - row.mean);
}

function intervalBars(rows, tint, thickness) {
  return {
    type: "data",
    symmetric: false,
    color: tint,
    thickness,
    width: 5,
    array: rows.map((row) => reachOf(row, "high")),
    arrayminus: rows.map((row) => reachOf(row, "low")),
  };
}

function between(row, isShare) {
  const shown = (value) => (isShare ? `${(100 * value).toFixed(1)}%` : figure(value));
  return row.low === null || row.high === null
    ? shown(row.mean)
    : `${shown(row.mean)} [${shown(row.low)}, ${shown(row.high)}]`;
}

// Lines and bands stop short of the names above the intervals.
function inRow(place) {
  return { layer: "between", y0: place - 0.08, y1: place + 0.34 };
}

function lineInRow(place, x, tint, dash) {
  return { ...inRow(place), type: "line", x0: x, x1: x, line: { color: tint, dash, width: 1.5 } };
}

function bandInRow(place, low, high, colour) {
  return {
    ...inRow(place),
    type: "rect",
    x0: low,
    x1: high,
    fillcolor: colour.pool,
    opacity: 0.28,
    line: { width: 0 },
  };
}

// A row an entry, its label above its interval.
function rowsLayout(labels, colour, size, { title, shapes, range, tickformat }) {
  const annotations = labels.map((text, place) => ({
    xref: "paper",
    x: 0,
    xanchor: "left",
    y: place - 0.27,
    yanchor: "middle",
    text: plain(text),
    showarrow: false,
    font: { size: LABEL_SIZE, color: colour.ink },
  }));
  return studyLayout(colour, size, {
    margin: { l: MARGIN, r: MARGIN, t: 8, b: ROOM.b },
    annotations,
    shapes,
    xaxis: {
      title: { text: plain(title) },
      zeroline: false,
      automargin: false,
      nticks: 6,
      range,
      tickformat,
    },
    yaxis: {
      range: [labels.length - 0.5, -0.5],
      showticklabels: false,
      ticks: "",
      showline: false,
      showgrid: false,
      zeroline: false,
      automargin: false,
    },
  });
}

// Ends a little beyond everything that is drawn; nothing is cut off.
function rangeOver(values, margin) {
  const known = values.filter((value) => Number.isFinite(value));
  const [low, high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  const beyond = margin * (high - low || Math.abs(high) || 1);
  return [low - beyond, high + beyond];
}

function meets(one, other) {
  return (
    Math.abs(one.x - other.x) < (one.width + other.width) / 2 &&
    Math.abs(one.y - other.y) < (one.height + other.height) / 2
  );
}

// Places for labels in pixels from their points, or null where one has no room.
//
// points: {x, y} in pixels of every point drawn; wanted: the one of each label and its width;
// inside: the width and height of the plot.
function placeLabels(points, wanted, inside) {
  const taken = points.map(({ x, y }) => ({
    x,
    y,
    width: POINT_SIZE + 4,
    height: POINT_SIZE + 4,
  }));
  const places = [];
  for (const { x, y, width } of wanted) {
    const box = spotFor({ x, y }, { width: width + 8, height: LABEL_SIZE + 7 }, taken, inside);
    if (box === null) return null;
    taken.push(box);
    places.push({ dx: box.x - x, dy: box.y - y, isNear: box.isNear });
  }
  return places;
}

function spotFor(point, { width, height }, taken, inside) {
  for (const ring of RINGS) {
    for (let step = 0; step < DIRECTIONS; step += 1) {
      // Right first, then in turn above and below.
      const turn = Math.ceil(step / 2) * (step % 2 ? 1 : -1);
      const angle = (2 * Math.PI * turn) / DIRECTIONS;
      const box = {
        x: point.x + Math.cos(angle) * (width / 2 + POINT_SIZE / 2 + ring),
        y: point.y - Math.sin(angle) * (height / 2 + POINT_SIZE / 2 + ring),
        width,
        height,
        isNear: ring === RINGS[0],
      };
      const isInside =
        box.x - width / 2 >= 0 &&
        box.x + width / 2 <= inside.width &&
        box.y - height / 2 >= 0 &&
        box.y + height / 2 <= inside.height;
      if (isInside && !taken.some((other) => meets(box, other))) return box;
    }
  }
  return null;
}

function errorBars(points, axis, tint) {
  const reach = (point, end) => Math.abs((point[`${axis}_${end}`] ?? point[axis]) - point[axis]);
  return {
    type: "data",
    symmetric: false,
    color: tint,
    thickness: 0.8,
    width: 0,
    array: points.map((point) => reach(point, "high")),
    arrayminus: points.map((point) => reach(point, "low")),
  };
}

Object.assign(CHARTS, {
  // Differences of the contrasts with their intervals; the band ends at the detectable one.
  contrasts({ rows, title, equivalence, extent, is_share }, colour, size) {
    const shapes = [];
    rows.forEach((row, place) => {
      if (row.detectable !== null)
        shapes.push(bandInRow(place, -row.detectable, row.detectable, colour));
      shapes.push(lineInRow(place, 0, colour.ink, "solid"));
      for (const bound of equivalence ? [-equivalence, equivalence] : [])
        shapes.push(lineInRow(place, bound, colour.muted, "dot"));
    });

    const known = rows.flatMap((row, place) => (row.mean === null ? [] : [{ ...row, place }]));
    const data = [
      {
        type: "scatter",
        mode: "markers",
        x: known.map((row) => row.mean),
        y: known.map((row) => row.place + 0.12),
        error_x: intervalBars(known, colour.accent, 2),
        customdata: known.map((row) => [
          plain(row.first),
          plain(row.second),
          between(row, is_share),
          row.p_holm === null ? "" : `<br>Holm's p ${figure(row.p_holm)}`,
        ]),
        hovertemplate:
          "%{customdata[0]}<br>minus %{customdata[1]}<br>%{customdata[2]}%{customdata[3]}<extra></extra>",
        marker: {
          color: colour.accent,
          size: 11,
          line: { color: colour.accent, width: 2 },
          symbol: known.map((row) => (row.is_clear ? "circle" : "circle-open")),
        },
      },
    ];
    const room = size.width - 2 * MARGIN;
    const labels = rows.map((row) => contrastLabel(row, room));
    const range = rangeOver([0, ...extent, ...(equivalence ? [-equivalence, equivalence] : [])], 0.05);
    const tickformat = is_share ? ".0%" : "";
    return { data, layout: rowsLayout(labels, colour, size, { title, shapes, range, tickformat }) };
  },

  // A measure of each arm with its interval; the base's is a line and a band through all rows.
  arms({ rows, base, title, extent, is_share }, colour, size) {
    const shapes = [];
    rows.forEach((_, place) => {
      if (base === null || base.mean === null) return;
      if (base.low !== null) shapes.push(bandInRow(place, base.low, base.high, colour));
      shapes.push(lineInRow(place, base.mean, colour.muted, "solid"));
    });

    const known = rows.flatMap((row, place) => (row.mean === null ? [] : [{ ...row, place }]));
    const data = [
      {
        type: "scatter",
        mode: "markers",
        x: known.map((row) => row.mean),
        y: known.map((row) => row.place + 0.12),
        error_x: intervalBars(known, colour.accent, 2),
        customdata: known.map((row) => [plain(row.name), between(row, is_share)]),
        hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
        marker: {
          color: colour.accent,
          size: 10,
          symbol: known.map((row) => (row.is_base ? "square-open" : "circle")),
          line: { color: colour.accent, width: 2 },
        },
      },
    ];
    const labels = rows.map((row) => cutTo(row.name, size.width - 2 * MARGIN));
    const range = rangeOver(extent, 0.05);
    const tickformat = is_share ? ".0%" : "";
    return { data, layout: rowsLayout(labels, colour, size, { title, shapes, range, tickformat }) };
  },

  // A measure against another: an arm's points joined in the order in which it was judged.
  against({ series, base, budgets, x_title, y_title, is_whole }, colour, size) {
    const points = series.flatMap((each) => each.points);
    const across = points.flatMap(({ x, x_low, x_high }) => [x, x_low ?? x, x_high ?? x]);
    const up = points.flatMap(({ y, y_low, y_high }) => [y, y_low ?? y, y_high ?? y]);
    const xRange = rangeOver([...across, ...(base ? [base.x] : [])], 0.06);
    const yRange = rangeOver([...up, ...(base ? [base.y] : [])], 0.08);
    const inside = {
      width: Math.max(size.width - ROOM.l - ROOM.r, 1),
      height: Math.max(size.height - ROOM.t - ROOM.b, 1),
    };
    const pixel = ({ x, y }) => ({
      x: (inside.width * (x - xRange[0])) / (xRange[1] - xRange[0]),
      y: (inside.height * (yRange[1] - y)) / (yRange[1] - yRange[0]),
    });

    const data = series.map((each, place) => {
      const tint = colour.series[place % SERIES];
      return {
        type: "scatter",
        mode: each.points.length > 1 ? "lines+markers" : "markers",
        x: each.points.map((point) => point.x),
        y: each.points.map((point) => point.y),
        error_x: errorBars(each.points, "x", tint),
        error_y: errorBars(each.points, "y", tint),
        line: { color: tint, width: 1 },
        marker: {
          color: tint,
          size: POINT_SIZE,
          symbol: each.points.map(({ place: at }) => BUDGET_SYMBOLS[at % BUDGET_SYMBOLS.length]),
        },
        customdata: each.points.map((point) => [plain(each.name), plain(budgets[point.place])]),
        hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
      };
    });
    if (base) {
      data.push({
        type: "scatter",
        mode: "markers",
        x: [base.x],
        y: [base.y],
        marker: { color: colour.ink, size: POINT_SIZE + 2, symbol: "square-open" },
        hovertemplate: "base<br>%{x:.4g}, %{y:.4g}<extra></extra>",
      });
    }

    // Names where all of them have room, else the numbers of the table of arms.
    const drawnAt = [...points, ...(base ? [base] : [])].map(pixel);
    const named = series.map((each) => ({
      point: each.points[each.points.length - 1],
      name: each.name,
      number: String(each.number),
    }));
    if (base) named.push({ point: base, name: "base", number: "base" });
    const placed = (key) =>
      placeLabels(
        drawnAt,
        named.map((each) => ({ ...pixel(each.point), width: widthOf(each[key]) })),
        inside,
      );
    const byName = placed("name");
    const key = byName ? "name" : "number";
    const spots = byName ?? placed("number") ?? [];
    const annotations = spots.map(({ dx, dy, isNear }, place) => ({
      x: named[place].point.x,
      y: named[place].point.y,
      ax: dx,
      ay: dy,
      text: plain(named[place][key]),
      showarrow: true,
      arrowhead: 0,
      arrowwidth: 0.7,
      standoff: POINT_SIZE / 2,
      arrowcolor: isNear ? "rgba(0,0,0,0)" : colour.muted,
      bgcolor: colour.paper,
      borderpad: 1,
      font: { size: LABEL_SIZE, color: colour.ink },
    }));
    const layout = studyLayout(colour, size, {
      margin: ROOM,
      annotations,
      xaxis: {
        title: { text: plain(x_title) },
        range: xRange,
        automargin: false,
        nticks: 7,
        ...(is_whole && { tickformat: "d", dtick: 1 }),
      },
      yaxis: { title: { text: plain(y_title) }, range: yRange, automargin: false },
    });
    return { data, layout };
  },
});

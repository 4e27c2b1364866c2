// Any page: reads the story, draws what is in view, and follows the colours.

const CONFIG = {
  displayModeBar: false,
  displaylogo: false,
  responsive: true,
  scrollZoom: false,
  doubleClick: false,
  showTips: false,
};
const story = JSON.parse(document.getElementById("story").textContent);
const drawn = new Set();
const drawnAt = new Map();

function draw(element, data, layout) {
  Plotly.react(element, data, layout, CONFIG);
  element.dataset.drawn = "yes";
}

// data-path is "pools.0.rewards", or "trainings.0.curves|2,5" for places of a list.
function partOf(path) {
  const [steps, places] = path.split("|");
  const part = steps.split(".").reduce((value, step) => value[step], story);
  return places === undefined ? part : places.split(",").map((place) => part[Number(place)]);
}

function drawChart(element) {
  const size = { width: element.clientWidth, height: element.clientHeight };
  const part = partOf(element.dataset.path);
  const { data, layout } = CHARTS[element.dataset.chart](part, colours(), size);
  draw(element, data, layout);
  drawn.add(element);
  drawnAt.set(element, size.width);
}

// Charts that are not drawn from a part of the story alone, with what draws them first.
const later = new Map();

function drawFirst(element) {
  const start = later.get(element);
  later.delete(element);
  if (start) start();
  else if (element.dataset.chart && !drawn.has(element)) drawChart(element);
}

// A chart costs a tenth of a second: it is drawn when it is nearly in sight.
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawFirst(entry.target);
  },
  { rootMargin: "300px" },
);

function drawWhenSeen(element, start) {
  later.set(element, start);
  seen.observe(element);
}

const redrawn = [];
const applyTheme = startTheme(() => {
  for (const element of drawn) drawChart(element);
  for (const again of redrawn) again();
});

// A chart that is laid out in pixels is drawn again where its width changes.
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (drawn.has(target) && drawnAt.get(target) !== target.clientWidth) drawChart(target);
  }
});

for (const element of document.querySelectorAll("[data-chart]")) seen.observe(element);
for (const element of document.querySelectorAll("[data-sized]")) resized.observe(element);

// On paper everything is there, dark on light, as wide as a sheet.
function usePaper(isPaper) {
  onPaper = isPaper;
  document.documentElement.classList.toggle("paper", isPaper);
  applyTheme();

  const inSight = (selector) =>
    [...document.querySelectorAll(selector)].filter((element) => !element.closest("[hidden]"));
  if (isPaper) {
    for (const element of inSight(".plot")) drawFirst(element);
  }
  for (const element of inSight("[data-drawn]")) {
    const width = isPaper ? element.clientWidth : undefined;
    Plotly.relayout(element, { width, autosize: !isPaper });
  }
}
window.addEventListener("beforeprint", () => usePaper(true));
window.addEventListener("afterprint", () => usePaper(false));

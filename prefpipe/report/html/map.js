// The map of a prompt's candidates: the plot, the list that the keyboard goes through, and the text of the one looked at.

const SYMBOLS = { positive: "star", negative: "diamond", none: "circle" };

function startMap(story, draw) {
  const promptBox = document.getElementById("map-prompt");
  if (!promptBox) return () => {};
  const selectionBox = document.getElementById("map-selection");
  const plot = document.getElementById("map-plot");
  const list = document.getElementById("map-list");
  const reading = document.getElementById("map-reading");
  let current = 0;

  const entry = () => story.maps[Number(promptBox.value)];
  const selection = () => entry().selections[Number(selectionBox.value)] || { kept: [] };

  function fillSelections() {
    const before = selectionBox.value || "0";
    selectionBox.replaceChildren(...entry().selections.map((item, place) => {
      const option = document.createElement("option");
      option.value = String(place);
      option.textContent = item.strategy ? `${item.name} (${item.strategy})` : item.name;
      return option;
    }));
    if (entry().selections[Number(before)]) selectionBox.value = before;
  }

  // Whose colour a candidate has: the chosen negative that stands for it, by its place among the chosen.
  function rolesOf(chosen) {
    const roles = new Map();
    const negatives = chosen.kept.filter((item) => item.role === "negative").sort((a, b) => a.sample_idx - b.sample_idx);
    negatives.forEach((item, place) => {
      for (const other of item.represents || []) roles.set(other, { role: "none", owner: place, standsFor: item.sample_idx });
    });
    negatives.forEach((item, place) => roles.set(item.sample_idx, { role: "negative", owner: place, standsFor: item.sample_idx }));
    for (const item of chosen.kept) if (item.role === "positive") roles.set(item.sample_idx, { role: "positive", owner: null, standsFor: null });
    return roles;
  }

  const roleOf = (roles, candidate) => roles.get(candidate.sample_idx) || { role: "none", owner: null, standsFor: null };

  function drawPlot() {
    const colour = colours();
    const { candidates } = entry();
    const roles = rolesOf(selection());
    const tint = (found) => (found.role === "positive" ? colour.positive : found.owner === null ? colour.pool : colour.others[found.owner % colour.others.length]);
    const place = new Map(candidates.map((candidate) => [candidate.sample_idx, candidate]));
    const lines = { x: [], y: [] };
    for (const candidate of candidates) {
      const found = roleOf(roles, candidate);
      const owner = place.get(found.standsFor);
      if (owner && owner !== candidate) {
        lines.x.push(candidate.x, owner.x, null);
        lines.y.push(candidate.y, owner.y, null);
      }
    }
    const data = [{ type: "scatter", mode: "lines", x: lines.x, y: lines.y, hoverinfo: "skip", showlegend: false, line: { color: colour.rule, width: 1 } }];
    const names = { none: "not kept", negative: "negative", positive: "positive" };
    for (const role of ["none", "negative", "positive"]) {
      const own = candidates.map((candidate, number) => [candidate, number]).filter(([candidate]) => roleOf(roles, candidate).role === role);
      if (!own.length) continue;
      data.push({
        type: "scatter", mode: "markers", name: names[role], x: own.map(([item]) => item.x), y: own.map(([item]) => item.y),
        customdata: own.map(([, number]) => number), text: own.map(([item]) => `${item.sample_idx}: reward ${figure(item.reward)}`),
        hovertemplate: "sample %{text}<extra></extra>",
        marker: {
          symbol: SYMBOLS[role], size: role === "none" ? 10 : 15, color: own.map(([item]) => tint(roleOf(roles, item))),
          line: { color: colour.ink, width: role === "none" ? 0 : 1.5 },
        },
      });
    }
    const ring = candidates[current];
    data.push({
      type: "scatter", mode: "markers", x: ring ? [ring.x] : [], y: ring ? [ring.y] : [], hoverinfo: "skip", showlegend: false,
      marker: { symbol: "circle-open", size: 24, color: colour.accent, line: { width: 3 } },
    });
    const share = (number) => `${(100 * entry().shares[number]).toFixed(0)}% of the variance`;
    draw(plot, data, layoutOf(colour, {
      xaxis: { title: { text: share(0) }, zeroline: false, constrain: "domain" },
      yaxis: { title: { text: share(1) }, zeroline: false, scaleanchor: "x", scaleratio: 1 },
    }));
    if (!plot.dataset.listens) {
      plot.dataset.listens = "yes";
      const look = (event) => {
        const number = event.points && event.points[0] && event.points[0].customdata;
        if (Number.isInteger(number)) lookAt(number, true);
      };
      plot.on("plotly_hover", look);
      plot.on("plotly_click", look);
    }
  }

  function lookAt(number, scroll) {
    current = number;
    const candidate = entry().candidates[number];
    list.querySelectorAll("button").forEach((button, place) => {
      button.setAttribute("aria-current", String(place === number));
      if (place === number && scroll) list.scrollTop = button.parentElement.offsetTop - list.offsetTop - 60;
    });
    const found = roleOf(rolesOf(selection()), candidate);
    const head = document.createElement("strong");
    const stands = found.role === "none" && found.standsFor !== null ? `, nearest to the chosen ${found.standsFor}` : "";
    const tokens = candidate.n_tokens === null ? "" : `, ${figure(candidate.n_tokens)} tokens`;
    const finish = candidate.finish_reason === "length" ? ", cut at the token limit" : "";
    head.textContent = `Sample ${candidate.sample_idx}: ${found.role === "none" ? "not kept" : found.role}${stands}. Reward ${figure(candidate.reward)}${tokens}${finish}.`;
    const text = document.createElement("p");
    text.textContent = candidate.response || "(empty)";
    reading.replaceChildren(head, text);
    if (plot.data) Plotly.restyle(plot, { x: [[candidate.x]], y: [[candidate.y]] }, [plot.data.length - 1]);
  }

  function drawList() {
    const roles = rolesOf(selection());
    list.replaceChildren(...entry().candidates.map((candidate, number) => {
      const found = roleOf(roles, candidate);
      const item = document.createElement("li");
      const button = document.createElement("button");
      const part = (name, text) => {
        const span = document.createElement("span");
        span.className = name;
        span.textContent = text;
        return span;
      };
      button.type = "button";
      button.append(part(`role ${found.role}`, found.role === "none" ? "–" : found.role), part("reward", figure(candidate.reward)), part("begin", candidate.response.slice(0, 90)));
      button.addEventListener("focus", () => lookAt(number, false));
      button.addEventListener("click", () => lookAt(number, false));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
        const next = step && list.querySelectorAll("button")[number + step];
        if (next) {
          event.preventDefault();
          next.focus();
        }
      });
      item.append(button);
      return item;
    }));
  }

  function show() {
    current = 0;
    const told = entry();
    document.getElementById("map-text").textContent = told.n_messages > 1 ? `(last of ${told.n_messages} messages) ${told.prompt}` : told.prompt;
    const without = told.n_candidates - told.candidates.length;
    const chosen = selection();
    const why = chosen.status === "ok" ? "" : ` ${chosen.name}: ${chosen.status}${chosen.reason ? `, ${chosen.reason}` : ""}.`;
    document.getElementById("map-about").textContent = `Prompt ${told.prompt_id}. Ranked by ${told.expression || "nothing"}.${without ? ` ${without} candidates have no embedding.` : ""}${why}`;
    drawList();
    drawPlot();
    lookAt(0, false);
  }

  promptBox.addEventListener("change", () => { fillSelections(); show(); });
  selectionBox.addEventListener("change", show);
  fillSelections();
  show();
  return drawPlot;
}

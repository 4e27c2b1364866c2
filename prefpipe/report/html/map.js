// The map of a prompt's candidates: the plot, the list that the keyboard goes through, and the text
// of the one looked at.

const SYMBOLS = { positive: "star", negative: "diamond", none: "circle" };

function startMap(story, draw) {
  const promptBox = document.getElementById("map-prompt");
  if (!promptBox) return () => {};
  const selectionBox = document.getElementById("map-selection");
  const plot = document.getElementById("map-plot");
  const list = document.getElementById("map-list");
  const reading = document.getElementById("map-reading");
  let current = 0;
  let isSeen = false;

  const entry = () => story.maps[Number(promptBox.value)];
  const selection = () => entry().selections[Number(selectionBox.value)] || { kept: [] };

  function fillSelections() {
    const before = selectionBox.value || "0";
    selectionBox.replaceChildren(
      ...entry().selections.map((item, place) => {
        const option = document.createElement("option");
        option.value = String(place);
        option.textContent = item.strategy ? `${item.name} (${item.strategy})` : item.name;
        return option;
      }),
    );
    if (entry().selections[Number(before)]) selectionBox.value = before;
  }

  // What a selection made of each sample. `nearest` is the chosen negative that stands for it,
  // `owner` the place of that one among the chosen, which gives the colour.
  function assignmentsOf(chosen) {
    const assignments = new Map();
    const negatives = chosen.kept
      .filter((item) => item.role === "negative")
      .sort((a, b) => a.sample_idx - b.sample_idx);
    negatives.forEach((item, owner) => {
      for (const other of item.represents || []) {
        assignments.set(other, { role: "none", owner, nearest: item.sample_idx });
      }
    });

    // Last the chosen ones themselves, for a negative stands for itself too.
    negatives.forEach((item, owner) => {
      assignments.set(item.sample_idx, { role: "negative", owner, nearest: item.sample_idx });
    });
    for (const item of chosen.kept) {
      if (item.role === "positive") {
        assignments.set(item.sample_idx, { role: "positive", owner: null, nearest: null });
      }
    }
    return assignments;
  }

  const assignmentOf = (assignments, candidate) =>
    assignments.get(candidate.sample_idx) || { role: "none", owner: null, nearest: null };

  function drawPlot() {
    if (!isSeen) return;
    const colour = colours();
    const { candidates } = entry();
    const assignments = assignmentsOf(selection());
    const tint = ({ role, owner }) => {
      if (role === "positive") return colour.positive;
      return owner === null ? colour.pool : colour.others[owner % colour.others.length];
    };

    // A line from each candidate to the negative that stands for it.
    const bySample = new Map(candidates.map((candidate) => [candidate.sample_idx, candidate]));
    const lines = { x: [], y: [] };
    for (const candidate of candidates) {
      const nearest = bySample.get(assignmentOf(assignments, candidate).nearest);
      if (nearest && nearest !== candidate) {
        lines.x.push(candidate.x, nearest.x, null);
        lines.y.push(candidate.y, nearest.y, null);
      }
    }
    const data = [
      {
        type: "scatter",
        mode: "lines",
        x: lines.x,
        y: lines.y,
        hoverinfo: "skip",
        showlegend: false,
        line: { color: colour.rule, width: 1 },
      },
    ];

    const names = { none: "not kept", negative: "negative", positive: "positive" };
    for (const role of ["none", "negative", "positive"]) {
      const members = [];
      candidates.forEach((candidate, number) => {
        const assignment = assignmentOf(assignments, candidate);
        if (assignment.role === role) members.push({ candidate, number, colour: tint(assignment) });
      });
      if (!members.length) continue;
      data.push({
        type: "scatter",
        mode: "markers",
        name: names[role],
        x: members.map(({ candidate }) => candidate.x),
        y: members.map(({ candidate }) => candidate.y),
        customdata: members.map(({ number }) => number),
        text: members.map(
          ({ candidate }) => `${candidate.sample_idx}: reward ${figure(candidate.reward)}`,
        ),
        hovertemplate: "sample %{text}<extra></extra>",
        marker: {
          symbol: SYMBOLS[role],
          size: role === "none" ? 10 : 15,
          color: members.map((member) => member.colour),
          line: { color: colour.ink, width: role === "none" ? 0 : 1.5 },
        },
      });
    }

    // Last, so that it can be moved by its place: the ring around the one looked at.
    const ring = candidates[current];
    data.push({
      type: "scatter",
      mode: "markers",
      x: ring ? [ring.x] : [],
      y: ring ? [ring.y] : [],
      hoverinfo: "skip",
      showlegend: false,
      marker: { symbol: "circle-open", size: 24, color: colour.accent, line: { width: 3 } },
    });

    const share = (number) => `${(100 * entry().shares[number]).toFixed(0)}% of the variance`;
    draw(
      plot,
      data,
      layoutOf(colour, {
        xaxis: { title: { text: share(0) }, zeroline: false, constrain: "domain" },
        yaxis: { title: { text: share(1) }, zeroline: false, scaleanchor: "x", scaleratio: 1 },
      }),
    );
    listen();
  }

  // plotly.js knows the element, and its events, once it has drawn into it.
  function listen() {
    if (plot.dataset.listens) return;
    plot.dataset.listens = "yes";
    const look = (event) => {
      const number = event.points && event.points[0] && event.points[0].customdata;
      if (Number.isInteger(number)) lookAt(number, true);
    };
    plot.on("plotly_hover", look);
    plot.on("plotly_click", look);
  }

  function lookAt(number, scroll) {
    current = number;
    const candidate = entry().candidates[number];
    list.querySelectorAll("button").forEach((button, place) => {
      button.setAttribute("aria-current", String(place === number));
      if (place === number && scroll) {
        list.scrollTop = button.parentElement.offsetTop - list.offsetTop - 60;
      }
    });

    const { role, nearest } = assignmentOf(assignmentsOf(selection()), candidate);
    let state = role;
    if (role === "none") {
      state = nearest === null ? "not kept" : `not kept, nearest to the chosen ${nearest}`;
    }
    let length = candidate.n_tokens === null ? "" : `, ${figure(candidate.n_tokens)} tokens`;
    if (candidate.finish_reason === "length") length += ", cut at the token limit";
    const reward = figure(candidate.reward);
    const head = document.createElement("strong");
    head.textContent = `Sample ${candidate.sample_idx}: ${state}. Reward ${reward}${length}.`;
    const text = document.createElement("p");
    text.textContent = candidate.response || "(empty)";
    reading.replaceChildren(head, text);
    if (plot.data)
      Plotly.restyle(plot, { x: [[candidate.x]], y: [[candidate.y]] }, [plot.data.length - 1]);
  }

  function spanOf(name, text) {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = text;
    return span;
  }

  function drawList() {
    const assignments = assignmentsOf(selection());
    list.replaceChildren(
      ...entry().candidates.map((candidate, number) => {
        const { role } = assignmentOf(assignments, candidate);
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.append(
          spanOf(`role ${role}`, role === "none" ? "–" : role),
          spanOf("reward", figure(candidate.reward)),
          spanOf("begin", candidate.response.slice(0, 90)),
        );

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
      }),
    );
  }

  function show() {
    current = 0;
    const {
      prompt_id: id,
      prompt,
      n_messages: nMessages,
      expression,
      candidates,
      n_candidates: n,
      n_not_drawn: nNotDrawn,
    } = entry();
    const lastOf = nMessages > 1 ? `(last of ${nMessages} messages) ` : "";
    document.getElementById("map-text").textContent = lastOf + prompt;

    let about = `Prompt ${id}. Ranked by ${expression || "nothing"}.`;
    const nWithout = n - candidates.length - nNotDrawn;
    if (nWithout) about += ` ${nWithout} candidates have no embedding.`;
    if (nNotDrawn) about += ` ${nNotDrawn} candidates are not drawn: an even sample of the others is.`;
    const { name, status, reason } = selection();
    if (status !== "ok") about += ` ${name}: ${status}${reason ? `, ${reason}` : ""}.`;
    document.getElementById("map-about").textContent = about;

    drawList();
    drawPlot();
    lookAt(0, false);
  }

  promptBox.addEventListener("change", () => {
    fillSelections();
    show();
  });
  selectionBox.addEventListener("change", show);
  fillSelections();
  show();
  drawWhenSeen(plot, () => {
    isSeen = true;
    drawPlot();
  });
  return drawPlot;
}

// The savings calculator: prefpipe.maths.compute.training_compute in the browser. A test compares
// the two.

function tokenSums(plan, each, sharedPrompt) {
  const { prompts, mean_prompt_tokens: meanPrompt, mean_response_tokens: meanResponse } = plan;
  const n = prompts * each;
  const sums = {
    prompts,
    responses: n,
    prompt: n * meanPrompt,
    response: n * meanResponse,
    squared: n * (meanPrompt + meanResponse) ** 2,
  };
  if (!sharedPrompt) return sums;

  // A prompt that is computed once a group attends to itself once.
  const once = prompts * meanPrompt;
  const squared = sums.squared - sums.prompt ** 2 / n + once ** 2 / prompts;
  return { ...sums, prompt: once, squared };
}

function trainingFlop(shape, sums, recipe) {
  const again = recipe.gradient_checkpointing ? 1 : 0;
  const weights = recipe.lora ? 2 : 3;
  const reference = recipe.reference ? 1 : 0;

  const layers = 2 * shape.n_layer_parameters * (sums.prompt + sums.response);
  const output = 2 * shape.n_output_parameters * sums.response;
  const attention = shape.attention_width * sums.squared;
  return (
    layers * (recipe.epochs * (weights + again) + reference) +
    output * (recipe.epochs * weights + reference) +
    attention * (recipe.epochs * (3 + again) + reference)
  );
}

function computeSavings(inputs, shape) {
  const costs = (each) => {
    const sums = tokenSums(inputs, each, inputs.shared_prompt);
    const flop = trainingFlop(shape, sums, inputs);
    const hours = flop / (inputs.tflops * 1e12 * inputs.mfu) / 3600;
    const cost = inputs.price === null ? null : hours * inputs.price;
    return { responses: sums.responses, tokens: sums.prompt + sums.response, flop, hours, cost };
  };
  const pool = costs(inputs.n);
  const kept = costs(Math.min(inputs.n, inputs.positives + inputs.k));
  return { pool, kept, share: (pool.flop - kept.flop) / pool.flop };
}

// Hours, or minutes or seconds where the hours would be a long zero.
function timeUnit(hours) {
  return (
    [
      ["GPU-hours", 1],
      ["GPU-minutes", 60],
    ].find(([, per]) => hours * per >= 1) || ["GPU-seconds", 3600]
  );
}

// Least and greatest value of each field, and whether it is a whole number; the least of others is
// excluded.
const RULES = {
  prompts: [1, Infinity, true],
  n: [2, Infinity, true],
  k: [1, Infinity, true],
  positives: [1, Infinity, true],
  mean_prompt_tokens: [0, Infinity, false],
  mean_response_tokens: [0, Infinity, false],
  billions: [0, Infinity, false],
  tflops: [0, Infinity, false],
  mfu: [0, 1, false],
  epochs: [0, Infinity, false],
};

function startSavings(story, draw) {
  const form = document.getElementById("savings-form");
  const start = story.savings;
  const modelSize = (start.model.n_layer_parameters + start.model.n_output_parameters) / 1e9;
  const field = (name) => form.elements[name];
  const shownSize = Number(modelSize.toPrecision(4));
  const tflopsOf = (key) => (start.accelerators.find((gpu) => gpu.key === key) || {}).tflops;
  let answer = null;
  let isSeen = false;

  const fill = (plan) => {
    for (const [name, value] of Object.entries(plan)) field(name).value = value;
  };

  function showSource(place) {
    const source = start.sources[place];
    document.getElementById("savings-source").textContent = source.name;
    document.getElementById("savings-estimated").hidden = !source.n_estimated;
  }

  fill(start.plan);
  if (start.start !== null) showSource(start.start);
  if (field("source")) field("source").value = String(start.start);
  field("billions").value = shownSize;
  field("gpu").value = "h100";
  field("tflops").value = tflopsOf("h100");
  field("mfu").value = start.mfu;
  field("epochs").value = 1;
  field("shared_prompt").checked = start.shared_prompt;

  function rangeOf(low, high, whole) {
    if (whole) return `a whole number, ${low} or more`;
    return high < Infinity ? `above ${low} and at most ${high}` : `above ${low}`;
  }

  function read() {
    const inputs = {};
    for (const [name, [low, high, whole]] of Object.entries(RULES)) {
      const box = field(name);
      const value = box.value.trim() === "" ? NaN : Number(box.value);
      const isAboveLow = whole ? value >= low && Number.isInteger(value) : value > low;
      const isRight = Number.isFinite(value) && value <= high && isAboveLow;
      box.setAttribute("aria-invalid", String(!isRight));
      if (!isRight) {
        const label = box.closest("label").textContent.trim();
        throw new RangeError(`${label} must be ${rangeOf(low, high, whole)}.`);
      }
      inputs[name] = value;
    }

    const nKept = inputs.k + inputs.positives;
    if (nKept > inputs.n) {
      throw new RangeError(`k and the positives keep ${nKept} of ${inputs.n} candidates.`);
    }

    const price = field("price").value.trim() === "" ? null : Number(field("price").value);
    if (price !== null && !(price >= 0 && Number.isFinite(price))) {
      throw new RangeError("Price of a GPU-hour must be 0 or more.");
    }
    for (const name of ["lora", "gradient_checkpointing", "reference", "shared_prompt"])
      inputs[name] = field(name).checked;
    return { ...inputs, price };
  }

  // The model's own shape as long as its size is as it was; for another size, parameters alone, as
  // `--model 8B` has it.
  function shapeOf(inputs) {
    const label = document.getElementById("savings-model");
    if (inputs.billions === shownSize) {
      const without = start.model.attention_width ? "" : ", without its attention";
      label.textContent = start.model.name + without;
      return start.model;
    }
    label.textContent = `${figure(inputs.billions)} billion parameters, without their attention`;
    return {
      n_layer_parameters: inputs.billions * 1e9,
      n_output_parameters: 0,
      attention_width: 0,
    };
  }

  function rowOf(texts) {
    const row = document.createElement("tr");
    texts.forEach((text, place) => {
      const cell = document.createElement(place ? "td" : "th");
      if (!place) cell.scope = "row";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }

  function show() {
    const problem = document.getElementById("savings-problem");
    try {
      const inputs = read();
      answer = computeSavings(inputs, shapeOf(inputs));
      problem.hidden = true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
      return;
    }

    const { pool, kept, share } = answer;
    const [unit, per] = timeUnit(pool.hours);
    const cost = pool.cost === null ? "" : `, ${figure(pool.cost - kept.cost)} in money`;
    const saved = `${figure((pool.hours - kept.hours) * per)} ${unit}${cost}`;
    document.getElementById("savings-answer").textContent =
      `${(100 * share).toFixed(1)}% of the training compute saved: ${saved}.`;

    const power = (value) => value.toExponential(2).replace("e+", " × 10^");
    const rows = [
      ["Responses", "responses", figure],
      ["Tokens a pass", "tokens", figure],
      ["FLOP", "flop", power],
      [unit, "hours", (value) => figure(value * per)],
      ["Cost", "cost", figure],
    ];
    const known = rows.filter(([, key]) => pool[key] !== null);
    document
      .querySelector("#savings-table tbody")
      .replaceChildren(
        ...known.map(([name, key, shown]) =>
          rowOf([name, shown(pool[key]), shown(kept[key]), shown(pool[key] - kept[key])]),
        ),
      );
    drawPlot();
  }

  function drawPlot() {
    if (!answer || !isSeen) return;
    const colour = colours();
    const [unit, per] = timeUnit(answer.pool.hours);
    const times = [answer.kept.hours * per, answer.pool.hours * per];
    draw(
      document.getElementById("savings-plot"),
      [
        {
          type: "bar",
          orientation: "h",
          y: ["kept", "all usable"],
          x: times,
          marker: { color: [colour.positive, colour.pool] },
          text: times.map(figure),
          textposition: "auto",
          hovertemplate: `%{y}: %{x:.4g} ${unit}<extra></extra>`,
        },
      ],
      layoutOf(colour, {
        showlegend: false,
        xaxis: { title: { text: unit }, rangemode: "tozero" },
      }),
    );
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    if (name === "source") {
      fill(start.sources[Number(value)].plan);
      showSource(Number(value));
    }

    // A GPU sets its peak; another peak is that of another GPU.
    if (name === "gpu" && tflopsOf(value)) field("tflops").value = tflopsOf(value);
    if (name === "tflops" && tflopsOf(field("gpu").value) !== Number(value)) {
      field("gpu").value = "other";
    }
    show();
  });
  show();
  drawWhenSeen(document.getElementById("savings-plot"), () => {
    isSeen = true;
    drawPlot();
  });
  window.prefpipeReport = { computeSavings, answer: () => answer };
  return drawPlot;
}

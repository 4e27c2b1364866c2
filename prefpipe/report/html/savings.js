// The savings calculator: prefpipe.maths.training_compute in the browser. A test compares the two.

function tokenSums(plan, each, sharedPrompt) {
  const n = plan.prompts * each;
  const length = plan.mean_prompt_tokens + plan.mean_response_tokens;
  const sums = { prompts: plan.prompts, responses: n, prompt: n * plan.mean_prompt_tokens, response: n * plan.mean_response_tokens, squared: n * length ** 2 };
  if (!sharedPrompt) return sums;
  const once = plan.prompts * plan.mean_prompt_tokens;
  return { ...sums, prompt: once, squared: sums.squared - sums.prompt ** 2 / n + once ** 2 / plan.prompts };
}

function trainingFlop(shape, sums, recipe) {
  const again = recipe.gradient_checkpointing ? 1 : 0;
  const weights = recipe.lora ? 2 : 3;
  const reference = recipe.reference ? 1 : 0;
  return 2 * shape.n_layer_parameters * (sums.prompt + sums.response) * (recipe.epochs * (weights + again) + reference)
    + 2 * shape.n_output_parameters * sums.response * (recipe.epochs * weights + reference)
    + shape.attention_width * sums.squared * (recipe.epochs * (3 + again) + reference);
}

function computeSavings(inputs, shape) {
  const side = (each) => {
    const sums = tokenSums(inputs, each, inputs.shared_prompt);
    const flop = trainingFlop(shape, sums, inputs);
    const hours = flop / (inputs.tflops * 1e12 * inputs.mfu) / 3600;
    return { responses: sums.responses, tokens: sums.prompt + sums.response, flop, hours, cost: inputs.price === null ? null : hours * inputs.price };
  };
  const pool = side(inputs.n);
  const kept = side(Math.min(inputs.n, inputs.positives + inputs.k));
  return { pool, kept, share: (pool.flop - kept.flop) / pool.flop };
}

// Hours, or minutes or seconds where the hours would be a long zero.
function timeUnit(hours) {
  return [["GPU-hours", 1], ["GPU-minutes", 60]].find(([, per]) => hours * per >= 1) || ["GPU-seconds", 3600];
}

const RULES = {
  prompts: [1, Infinity, true], n: [2, Infinity, true], k: [1, Infinity, true], positives: [1, Infinity, true], mean_prompt_tokens: [0, Infinity, false],
  mean_response_tokens: [0, Infinity, false], billions: [0, Infinity, false], tflops: [0, Infinity, false], mfu: [0, 1, false], epochs: [0, Infinity, false],
};

function startSavings(story, draw) {
  const form = document.getElementById("savings-form");
  const told = story.savings;
  const modelSize = (told.model.n_layer_parameters + told.model.n_output_parameters) / 1e9;
  const field = (name) => form.elements[name];
  const shownSize = Number(modelSize.toPrecision(4));
  const tflopsOf = (key) => (told.accelerators.find((gpu) => gpu.key === key) || {}).tflops;
  let answer = null;

  const fill = (plan) => {
    for (const [name, value] of Object.entries(plan)) field(name).value = value;
  };

  function showSource(place) {
    const source = told.sources[place];
    document.getElementById("savings-source").textContent = source.name;
    document.getElementById("savings-estimated").hidden = !source.n_estimated;
  }

  fill(told.plan);
  if (told.start !== null) showSource(told.start);
  if (field("source")) field("source").value = String(told.start);
  field("billions").value = shownSize;
  field("gpu").value = "h100";
  field("tflops").value = tflopsOf("h100");
  field("mfu").value = told.mfu;
  field("epochs").value = 1;
  field("shared_prompt").checked = told.shared_prompt;

  function read() {
    const inputs = {};
    for (const [name, [low, high, whole]] of Object.entries(RULES)) {
      const box = field(name);
      const value = box.value.trim() === "" ? NaN : Number(box.value);
      const isRight = Number.isFinite(value) && value <= high && (whole ? value >= low && Number.isInteger(value) : value > low);
      box.setAttribute("aria-invalid", String(!isRight));
      if (!isRight) {
        const words = box.closest("label").textContent.trim();
        const range = whole ? `a whole number, ${low} or more` : high < Infinity ? `above ${low} and at most ${high}` : `above ${low}`;
        throw new RangeError(`${words} must be ${range}.`);
      }
      inputs[name] = value;
    }
    if (inputs.k + inputs.positives > inputs.n) throw new RangeError(`k and the positives keep ${inputs.k + inputs.positives} of ${inputs.n} candidates.`);
    const price = field("price").value.trim() === "" ? null : Number(field("price").value);
    if (price !== null && !(price >= 0 && Number.isFinite(price))) throw new RangeError("Price of a GPU-hour must be 0 or more.");
    for (const name of ["lora", "gradient_checkpointing", "reference", "shared_prompt"]) inputs[name] = field(name).checked;
    return { ...inputs, price };
  }

  // The model's own shape as long as its size is as it was; for another size, parameters alone, as `--model 8B` has it.
  function shapeOf(inputs) {
    const isOwn = inputs.billions === shownSize;
    const name = isOwn ? `${told.model.name}${told.model.attention_width ? "" : ", without its attention"}` : `${figure(inputs.billions)} billion parameters, without their attention`;
    document.getElementById("savings-model").textContent = name;
    return isOwn ? told.model : { n_layer_parameters: inputs.billions * 1e9, n_output_parameters: 0, attention_width: 0 };
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
    document.getElementById("savings-answer").textContent = `${(100 * share).toFixed(1)}% of the training compute saved: ${figure((pool.hours - kept.hours) * per)} ${unit}${cost}.`;
    const power = (value) => value.toExponential(2).replace("e+", " × 10^");
    const rows = [["Responses", "responses", figure], ["Tokens a pass", "tokens", figure], ["FLOP", "flop", power], [unit, "hours", (value) => figure(value * per)], ["Cost", "cost", figure]];
    document.querySelector("#savings-table tbody").replaceChildren(...rows.filter(([, key]) => pool[key] !== null).map(([name, key, shown]) => {
      const row = document.createElement("tr");
      [name, shown(pool[key]), shown(kept[key]), shown(pool[key] - kept[key])].forEach((text, place) => {
        const cell = document.createElement(place ? "td" : "th");
        if (!place) cell.scope = "row";
        cell.textContent = text;
        row.append(cell);
      });
      return row;
    }));
    drawPlot();
  }

  function drawPlot() {
    if (!answer) return;
    const colour = colours();
    const [unit, per] = timeUnit(answer.pool.hours);
    const times = [answer.kept.hours * per, answer.pool.hours * per];
    draw(document.getElementById("savings-plot"), [{
      type: "bar", orientation: "h", y: ["kept", "all usable"], x: times, marker: { color: [colour.positive, colour.pool] },
      text: times.map(figure), textposition: "auto", hovertemplate: `%{y}: %{x:.4g} ${unit}<extra></extra>`,
    }], layoutOf(colour, { showlegend: false, xaxis: { title: { text: unit }, rangemode: "tozero" } }));
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "source") {
      fill(told.sources[Number(event.target.value)].plan);
      showSource(Number(event.target.value));
    }
    if (event.target.name === "gpu" && tflopsOf(event.target.value)) field("tflops").value = tflopsOf(event.target.value);
    if (event.target.name === "tflops") {
      const match = told.accelerators.find((gpu) => gpu.tflops === Number(event.target.value) && gpu.key === field("gpu").value);
      if (!match) field("gpu").value = "other";
    }
    show();
  });
  show();
  window.prefpipeReport = { computeSavings, answer: () => answer };
  return drawPlot;
}
